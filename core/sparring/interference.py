"""Interference: what attacks make of their own clients' updates, and what the server takes from these."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch

from sparring.build import Built
from sparring.context import Round, Wire
from sparring.measure import Books, measured
from sparring.mixins import Stateful
from sparring.signals import Cohort, Release, Updates
from sparring.sites import Site


def attacked(
    built: Built, updates: Updates, honest: Updates, free: frozenset[int], ctx: Round, books: Books
) -> Iterable[Updates]:
    """The updates of ``free`` clients, attack by attack; ``honest``: those of the others, as they will be sent."""
    known = built.resolved.knows
    for attack in built.attacks:
        ids = [i for i in updates.ids if i in free and i in built.groups.get(attack.label, ())]
        if not ids:
            continue
        own = updates.select(ids)
        grants = replace(
            ctx,
            benign=honest.rows if "benign-updates" in known else None,
            honest=honest if "benign-updates" in known else None,
            aggregate=rehearsal(built, ctx) if "aggregator" in known else None,
            lab=ctx.lab if "recipe" in known else None,
        )
        for live in attack.active:
            if live.site is Site.UPDATE:
                own = measured(live, own, grants, books, lambda u: u.params)
        yield accepted(own, books)


def rehearsal(built: Built, ctx: Round) -> Callable[[Cohort], Release]:
    """What the server's COHORT layers and rule would make of a cohort; their states stay as they were."""
    layers = built.at(Site.COHORT)
    owned = [instance for instance in (*(live.instance for live in layers), built.rule) if isinstance(instance, Stateful)]
    facts = built.resolved.facts_before(Site.AGGREGATE)

    def release(cohort: Cohort) -> Release:
        kept = [copy.deepcopy(dict(instance.state())) for instance in owned]
        alone = replace(ctx, wire=Wire(ctx.index, ctx.wire.lost), emit=lambda event, clients: None)
        try:
            for live in layers:
                cohort = live.transform(cohort, alone.at(live.name, live.facts))
            made: Release = built.aggregate(cohort, alone.at("aggregator", facts))
        finally:
            for instance, state in zip(owned, kept, strict=True):
                instance.restore(state)
        return made

    return release


def accepted(updates: Updates, books: Books) -> Updates:
    """What the server takes from compromised clients: rows of numbers; the others are counted."""
    finite = torch.isfinite(updates.rows).all(dim=1)
    if bool(finite.all()):
        return updates
    books.rejected += int((~finite).sum())
    return updates.select([i for i, good in zip(updates.ids, finite.tolist(), strict=True) if good])
