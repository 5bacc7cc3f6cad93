"""Checks of pairs: what the clients seal and the server opens is the weighted mean, and one sealed row says nothing."""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy import stats
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.context import Context, Round
from sparring.errors import RoundAborted
from sparring.facts import Clipped, Readable, Sensitivity, Weighted
from sparring.signals import Cohort, Release, Updates
from sparring.signature import All, Signature
from sparring.sites import Site
from sparring.testing.fixtures import make_layout, make_updates, tiny_layout
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.stage import NORMS, clipped
from sparring.testing.subject import Subject, Trial, layers

HALVES = layers(Site.UPDATE, paired=True)
TOLERANCE = 2e-3
"""Largest error of an opened mean, relative to the largest entry: what fixed-point numbers of useful size reach."""
RARE = 1e-7


def _through(trial: Trial, updates: Updates, ctx: Context) -> tuple[Updates, Release]:
    """The sealed rows, and what the server opens of their sum."""
    assert isinstance(ctx, Round)
    sealed: Updates = trial.apply(trial.build(), updates, ctx)
    cohort = Cohort(sealed.rows, sealed.layout, sealed.ids, sealed.weights, sources=sealed.ids)
    release = WeightedMean().server_aggregate(cohort, ctx)
    back = Trial(trial.subject, trial.config, trial.sampled, 1)
    opened: Release = back.apply(back.build(), release, ctx)
    return sealed, opened


@check(HALVES)
def pair_round_trip(trial: Trial) -> None:
    """Law: sealing, adding and opening gives the weighted mean of the rows that arrived, or aborts the round.
    Why: a protocol changes who can read what, never the result.
    If this fails: look at weights, at the correction for lost clients, and at the range and resolution of encoded numbers.
    """
    if trial.sampled:
        raise Inapplicable("drawn configurations may be as coarse as they like")
    updates = trial.signal()
    for gone in ((), updates.ids[:1], updates.ids[2:4]):
        ctx = trial.context(lost=lambda stage, client, gone=gone: client in gone)
        sealed, opened = _through(trial, updates, ctx)
        demand(not set(sealed.ids) & set(gone), f"rows of clients {gone} arrived although they were lost")
        arrived = updates.select(sealed.ids)
        assert arrived.weights is not None
        expected = arrived.weights @ arrived.rows / arrived.weights.sum()
        demand(opened.layout == updates.layout, "the opened layout is not the one that was sealed")
        error = float((opened.vector - expected).abs().max() / arrived.rows.abs().max())
        demand(error <= TOLERANCE, f"with clients {gone} lost, the opened mean is off by {error:.2g} of the largest entry")
        keeps = trial.signature.keeps
        if isinstance(keeps, All) or any(isinstance(fact, Weighted) for fact in keeps):
            total = float(arrived.weights.sum())
            demand(abs(opened.total - total) <= TOLERANCE * total, f"it keeps Weighted; total {opened.total:g} for {total:g}")
    try:
        _, opened = _through(trial, updates, trial.context(lost=lambda stage, client: True))
    except RoundAborted:
        return
    demand(opened.total == 0, f"with every client lost it opened a release of total weight {opened.total:g}")


SINGLE = tuple(Readable(by, "update", "client") for by in ("server", "aggregator"))


def hides_single(signature: Signature) -> bool:
    """Whether a layer hides clients' single updates from the server or the aggregator."""
    return any(fact.meets(hidden) for fact in SINGLE for hidden in signature.hides)


def _seals(s: Subject) -> bool:
    return getattr(s.spec, "paired", False) or s.declares(hides_single)


@check(layers(Site.UPDATE).where(_seals))
def sealed_rows_hide(trial: Trial) -> None:
    """Law: a row behind a pair's first half, or a layer that hides single updates, is independent of its input, and fresh.
    Why: whoever reads single rows must learn nothing; a pad that repeats can be subtracted.
    If this fails: draw every pad anew from `ctx.secure`, over the whole ring, for every column.
    """
    if not trial.spec.paired and not hides_single(trial.signature):
        raise Inapplicable("it hides no single update")
    layout = make_layout(8192)
    constant = make_updates(layout=layout)
    rows = torch.where(torch.arange(layout.size) % 2 == 0, 0.9, 0.01).expand(len(constant.ids), -1).clone()
    updates = replace(constant, rows=rows, weights=torch.full_like(constant.rows[:, 0], 10.0))
    instance = trial.build()
    first: Updates = trial.apply(instance, updates, trial.context())
    second: Updates = trial.apply(instance, updates, trial.context(index=1))
    sealed = [u.rows[:, : layout.size].double() for u in (first, second)]
    modulus = first.layout.space.modulus
    pairs = (
        (sealed[0][0], sealed[0][1], "two clients with the same row"),
        (sealed[0][0], sealed[1][0], "two rounds of one row"),
    )
    for one, other, what in pairs:
        demand(_correlation(one, other) < 7 / layout.size**0.5, f"the sealed rows of {what} are correlated")
        offset = ((one - other) % modulus).round() if modulus else one - other
        varied = len(offset.unique()) > layout.size // 100
        demand(varied, f"the sealed rows of {what} differ by few values: the pad repeats")
    for row in sealed[0]:
        demand(
            _correlation(row, rows[0].double()) < 7 / layout.size**0.5, "a sealed row is correlated with the row that it seals"
        )
        if modulus:
            counts = torch.bincount((row / modulus * 16).long().clamp(0, 15), minlength=16)
            p = stats.chisquare(counts.numpy()).pvalue
            demand(p > RARE, f"a sealed row is not uniform modulo {modulus}: sixteenths {counts.tolist()} (p = {p:.1g})")


def _correlation(x: Tensor, y: Tensor) -> float:
    x, y = x - x.mean(), y - y.mean()
    return float((x @ y).abs() / (x.norm() * y.norm()).clamp(min=1e-300))


@check(HALVES)
def pair_bounds(trial: Trial) -> None:
    """Law: where both halves keep Clipped(norm, client), the opened mean lies within the bound of the rows that were sealed.
    Why: noise behind the pair is scaled by a bound that was given before it; rounding may not carry rows over it.
    If this fails: round towards zero, divide by the weights that were added, or do not keep Clipped.
    """
    back = Trial(trial.subject, trial.config, trial.sampled, 1)
    ran = False
    for norm in NORMS:
        fact = Clipped(norm, "client", "all")  # type: ignore[arg-type]
        sensitive = Sensitivity("client")
        kept = all(t.signature.survives(fact) or t.signature.survives(sensitive) for t in (trial, back))
        for size in (0.02, 1.0) if kept and (norm == "l2" or trial.signature.survives(fact)) else ():
            ran = True
            alike = make_updates(layout=tiny_layout())
            rows = alike.rows[:1].expand_as(alike.rows) if size == 1.0 else alike.rows
            updates = clipped(replace(alike, rows=1e3 * rows), {norm: size})
            limit = float(torch.linalg.vector_norm(updates.rows.double(), NORMS[norm], dim=1).max())
            _, opened = _through(trial, updates, trial.context())
            found = float(torch.linalg.vector_norm(opened.vector.double(), NORMS[norm]))
            demand(found <= limit * (1 + 1e-5), f"it keeps {fact}; rows within {limit:.6g} opened to a mean of {found:.6g}")
    if not ran:
        raise Inapplicable("it keeps no bound")
