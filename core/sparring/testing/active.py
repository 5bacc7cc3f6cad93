"""Checks of active attacks: they keep the form, read what they are granted, and do something."""

from __future__ import annotations

from typing import Any

import torch

from sparring.facts import Knows
from sparring.signals import ClientData, Release, Updates
from sparring.signature import Signature
from sparring.sites import Site
from sparring.testing.fixtures import IDS, make_updates
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.stage import outcome, same
from sparring.testing.subject import PLAYED, Trial, layers

ATTACKS = layers(*PLAYED, kinds=("attacks",))
ON_UPDATES = layers(Site.UPDATE, kinds=("attacks",))
HELD = IDS[1:4]


def knows(signature: Signature, what: str) -> bool:
    """Whether a need may be met by this knowledge."""
    return any(isinstance(need, Knows) and need.what in (what, None) for clause in signature.clauses for need in clause)


def _own(trial: Trial) -> Any:
    """The signal restricted to the attack's own clients."""
    signal = trial.signal()
    return signal.select(HELD) if isinstance(signal, Updates) else signal


def _mean(rows: Any) -> Release:
    return Release(rows.rows.mean(0), rows.layout)


def granted(trial: Trial) -> dict[str, Any]:
    """What the context of an attack on updates holds under a threat model that meets its needs."""
    signal = trial.signal()
    if not isinstance(signal, Updates):
        return {}
    benign = signal.select([i for i in IDS if i not in HELD]).rows
    return {
        **({"benign": benign} if knows(trial.signature, "benign-updates") else {}),
        **({"aggregate": _mean} if knows(trial.signature, "aggregator") else {}),
    }


@check(ATTACKS)
def attack_keeps_form(trial: Trial) -> None:
    """Law: an active attack returns the same type, the same clients, the same layout and shape, in finite numbers.
    Why: the server refuses what does not have the wire format, so that the attack would only exclude its own clients.
    If this fails: return `signal.with_params(...)`, or examples of the same shape with labels among the classes.
    """
    signal = _own(trial)
    after = trial.apply(trial.build(), signal, trial.context(**granted(trial)))
    demand(type(after) is type(signal), f"a {type(signal).__name__} became a {type(after).__name__}")
    if isinstance(after, Updates):
        demand(after.ids == signal.ids, f"clients {signal.ids} became {after.ids}")
        demand(after.layout == signal.layout, "the layout changed")
        demand(
            after.rows.shape == signal.rows.shape and after.rows.dtype == signal.rows.dtype,
            f"rows became {tuple(after.rows.shape)}",
        )
        demand(bool(after.rows.isfinite().all()), "it sends NaN or infinity")
    if isinstance(after, ClientData):
        demand(set(after) == set(signal), "its clients changed")
        for client, examples in after.clients.items():
            held = signal.clients[client]
            demand(
                examples.x.shape[1:] == held.x.shape[1:] and examples.x.dtype == held.x.dtype,
                "inputs changed their shape or type",
            )
            demand(len(examples.y) == len(examples.x), f"{len(examples.x)} inputs, {len(examples.y)} labels")
            demand(int(examples.y.min()) >= 0 and int(examples.y.max()) < signal.shape.classes, "a label is no class")
            demand(float(examples.x.min()) >= 0 and float(examples.x.max()) <= 1, "an input lies outside [0, 1]")


@check(ON_UPDATES)
def attack_reads_grants(trial: Trial) -> None:
    """Law: an attack on updates reads its own rows, and of other clients and the rule only what its signature needs.
    Why: a threat model says what the adversary has; an attack that takes more proves nothing.
    If this fails: add `Knows("benign-updates")` or `Knows("aggregator")` to its needs, or do not read them.
    """
    own, grants = _own(trial), granted(trial)
    plain = outcome(trial.site, trial.apply(trial.build(), own, trial.context(**grants)))

    def forbidden(rows: Any) -> Release:
        del rows
        raise AssertionError("it calls ctx.aggregate without needing Knows(aggregator)")

    more = dict(grants)
    if "benign" not in grants:
        more["benign"] = 7 * make_updates(4, layout=own.layout, seed=8).rows
    if "aggregate" not in grants:
        more["aggregate"] = forbidden
    with_more = outcome(trial.site, trial.apply(trial.build(), own, trial.context(**more)))
    demand(same(plain, with_more), "it reads ctx.benign without needing Knows(benign-updates)")
    if "benign" in grants:
        lies = {**grants, "benign": torch.zeros_like(grants["benign"])}
        trial.apply(trial.build(), own, trial.context(**lies))


@check(ATTACKS)
def attack_acts(trial: Trial) -> None:
    """Law: an attack under its author's configurations changes what its clients send, hold or do.
    Why: the positive control: a defence that withstands an attack which does nothing is no finding.
    If this fails: find why it leaves its signal as it was.
    """
    if trial.sampled:
        raise Inapplicable("drawn configurations may do nothing")
    signal = _own(trial)
    before = outcome(trial.site, signal)
    after = outcome(trial.site, trial.apply(trial.build(), signal, trial.context(**granted(trial))))
    demand(not same(before, after), f"at {trial.site.label} it changed nothing")
