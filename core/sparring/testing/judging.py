"""Checks of layers that look across clients: at their data, or at cohorts, which they judge or whose rows they change."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from sparring.errors import ConfigError
from sparring.facts import Entangled, Judged
from sparring.mixins import Sizing
from sparring.signals import ClientData, Cohort
from sparring.sites import Site
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.server import many, played
from sparring.testing.stage import holds, same, tensors
from sparring.testing.subject import Trial, layers
from sparring.verdicts import Verdict

COHORTS = layers(Site.COHORT)
BEFORE = "an earlier layer"


def _seen(trial: Trial) -> Cohort:
    """A cohort that an earlier analysis has judged: nobody was flagged."""
    cohort = many(trial)
    return cohort.judged(Verdict(BEFORE, {client: float(client) for client in cohort.ids or ()}))


@check(COHORTS)
def judged_given(trial: Trial) -> None:
    """Law: a layer that gives Judged adds a finite verdict on every client that came in, whatever the order; who is left out
    is flagged.
    Why: detection is measured, and reputations are kept, from verdicts alone.
    If this fails: `cohort.judged(Verdict(ctx.layer, {client: suspicion}, flagged))` before rows are dropped.
    """
    if not any(isinstance(fact, Judged) for fact in trial.signature.gives):
        raise Inapplicable("it gives no Judged")
    cohort = _seen(trial)
    after = played(trial, cohort)
    own = [v for v in after.verdicts if v.layer == trial.spec.name]
    demand(len(own) == 1, f"it left {len(own)} verdicts under its name")
    verdict = own[0]
    clients = set(cohort.ids or ())
    demand(set(verdict.suspicion) == clients, f"it judged clients {sorted(verdict.suspicion)} of {sorted(clients)}")
    demand(all(math.isfinite(s) for s in verdict.suspicion.values()), "a suspicion is no finite number")
    demand(verdict.flagged <= clients, f"it flagged {sorted(verdict.flagged - clients)}, which are not in the cohort")
    if after.ids is not None:
        left_out = clients - set(after.ids) - set(verdict.flagged)
        demand(not left_out, f"it left out clients {sorted(left_out)} without flagging them")
    back = played(trial, cohort.select(torch.arange(len(cohort) - 1, -1, -1)))
    (other,) = (v for v in back.verdicts if v.layer == trial.spec.name)
    demand(other.flagged == verdict.flagged, "whom it flags depends on the order of rows")
    off = max(abs(other.suspicion[c] - s) / max(abs(s), 1.0) for c, s in verdict.suspicion.items())
    demand(off < 1e-6, f"its suspicions depend on the order of rows (off by {off:.2g})")


@check(COHORTS)
def judged_kept(trial: Trial) -> None:
    """Law: a layer over cohorts that keeps or gives Judged hands on the verdicts that it was given.
    Why: reputations gather the verdicts of all analyses before them.
    If this fails: build the cohort by `select`, `scaled`, `mixed` or `dataclasses.replace`, or do not keep Judged.
    """
    if not holds(trial.signature, Judged()):
        raise Inapplicable("it neither keeps nor gives Judged")
    cohort = _seen(trial)
    after = played(trial, cohort)
    demand(after.verdicts[:1] == cohort.verdicts, "the verdict of an earlier layer is gone")


@check(COHORTS)
def sizing_holds(trial: Trial) -> None:
    """Law: a layer that says how many rows go on hands on that many, and refuses as a run what it refuses as a number.
    Why: the rule behind it is asked before the run whether it can take so many.
    If this fails: return from `admit` the number of rows of what you return.
    """
    instance = trial.build()
    if not isinstance(instance, Sizing):
        raise Inapplicable("it says nothing of numbers of rows")
    for n in (1, 2, 3, 5, 9, 4 * getattr(trial.config, "f", 0) + 5):
        cohort = many(trial).select(torch.arange(min(n, len(many(trial)))))
        cohort = replace(cohort, sources=cohort.ids or ())
        try:
            expected = instance.admit(len(cohort))
        except ConfigError:
            try:
                played(trial, cohort)
            except ConfigError:
                continue
            raise AssertionError(f"it refuses {len(cohort)} rows before the run, and takes them in it") from None
        found = len(played(trial, cohort))
        demand(found == expected, f"of {len(cohort)} rows it says that {expected} go on, and {found} do")


@check(layers(Site.DATA))
def data_entangled(trial: Trial) -> None:
    """Law: a defence on data under which one client's examples depend on another's data gives Entangled.
    Why: noise on a client's update covers what that client holds; what it trains on then tells of others too.
    If this fails: treat each client by itself, or give `Entangled()`.
    """
    if any(isinstance(fact, Entangled) for fact in trial.signature.gives):
        raise Inapplicable("it gives Entangled")
    signal: ClientData = trial.signal()
    first, *others = sorted(signal)
    changed = {i: replace(signal.clients[i], x=1 - signal.clients[i].x, y=signal.clients[i].y.flip(0)) for i in others}
    whole = trial.apply(trial.build(), signal, trial.context())
    again = trial.apply(trial.build(), replace(signal, clients={**signal.clients, **changed}), trial.context())
    own = [tensors(after.clients[first]) for after in (whole, again)]
    demand(same(own[0], own[1]), f"other data at clients {others} change what client {first} trains on")
