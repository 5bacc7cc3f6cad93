"""Checks of active attacks: they keep the form, read what they are granted, and do something."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from sparring.facts import Knows
from sparring.layout import Layout
from sparring.signals import Broadcast, ClientData, Release, Updates
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
    honest = signal.select([i for i in IDS if i not in HELD])
    return {
        **({"benign": honest.rows, "honest": honest} if knows(trial.signature, "benign-updates") else {}),
        **({"aggregate": _mean} if knows(trial.signature, "aggregator") else {}),
    }


@check(ATTACKS)
def attack_keeps_form(trial: Trial) -> None:
    """Law: an active attack returns the same type, the same clients, layout and shape, and data and broadcasts in numbers.
    Why: who breaks the wire format is cut off; a row of an attacker may be anything else, and core rejects NaN and infinity.
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
        more["honest"] = replace(others := make_updates(4, layout=own.layout, seed=8), rows=7 * others.rows)
        more["benign"] = more["honest"].rows
    if "aggregate" not in grants:
        more["aggregate"] = forbidden
    with_more = outcome(trial.site, trial.apply(trial.build(), own, trial.context(**more)))
    demand(same(plain, with_more), "it reads ctx.benign without needing Knows(benign-updates)")
    if "benign" in grants:
        nothing = torch.zeros_like(grants["benign"])
        lies = {**grants, "benign": nothing, "honest": replace(grants["honest"], rows=nothing)}
        trial.apply(trial.build(), own, trial.context(**lies))


@check(layers(Site.UPDATE, Site.DATA, kinds=("attacks",)))
def attack_without_clients(trial: Trial) -> None:
    """Law: an attack none of whose clients is there returns the empty signal that it was given, in the same form.
    Why: the negative control; in many a round the sampled cohort holds none of its clients.
    If this fails: return the signal where it has no clients, before any mean or deviation.
    """
    signal = trial.signal()
    own = signal.select([]) if isinstance(signal, Updates) else signal.only([])
    after = trial.apply(trial.build(), own, trial.context(**granted(trial)))
    demand(type(after) is type(own), f"a {type(own).__name__} without clients became a {type(after).__name__}")
    if isinstance(after, Updates):
        fits = after.ids == () and after.rows.shape == own.rows.shape and after.layout == own.layout
        demand(fits, f"of no clients it made rows {tuple(after.rows.shape)} of clients {after.ids}")
    else:
        demand(not tuple(after), f"of no clients it made the data of clients {tuple(after)}")


@check(layers(Site.DATA, kinds=("attacks",)))
def attack_on_own_data(trial: Trial) -> None:
    """Law: an attack on data returns its own clients, and what it makes of one does not name, drop or add another.
    Why: core hands it its own clients alone; whatever else it returns would poison clients that it does not hold.
    If this fails: map over `signal.clients`, and keep no table of clients from elsewhere.
    """
    signal: ClientData = trial.signal()
    instance = trial.build()
    clients = tuple(signal)
    for own in (clients[:1], clients[1:], clients):
        after = trial.apply(instance, signal.only(own), trial.context())
        demand(set(after) == set(own), f"given clients {list(own)}, it returned clients {list(after)}")


BROADCASTS = layers(Site.BROADCAST, kinds=("attacks", "defences"))


@check(BROADCASTS)
def broadcast_fits(trial: Trial) -> None:
    """Law: behind a layer at BROADCAST every row fits its layout, every layout its plan, and all clients have one layout.
    Why: clients build the model from the plan and load the row; what does not fit ends the round for all.
    If this fails: change plan, layout and row together: `Layout.of(plan.factory(), plan.frozen)`.
    """
    after: Broadcast = trial.apply(trial.build(), trial.signal(), trial.context())
    for client, own in ((None, after), *after.overrides.items()):
        whom = "all" if client is None else f"client {client}"
        demand(own.layout == after.layout, f"what {whom} receives has another layout than the others'")
        with torch.random.fork_rng(devices=[]):
            built = Layout.of(own.plan.factory(), own.plan.frozen)
        demand(built.segments == own.layout.segments, f"the plan for {whom} builds a model that its layout does not describe")
        fits = tuple(own.row.shape) == (own.layout.size,) and own.row.is_floating_point()
        demand(fits, f"the row for {whom} is {tuple(own.row.shape)} {own.row.dtype}, the layout has {own.layout.size} columns")
        demand(bool(own.row.isfinite().all()), f"the row for {whom} holds NaN or infinity")


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
