"""Checks of what a server-side layer keeps or gives: spaces, columns, weights, identities, and single updates out of sight."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sparring.facts import Identified, PublicData, Space, Summable, Weighted
from sparring.layout import Layout
from sparring.signals import Cohort, Release, Updates
from sparring.sites import Site
from sparring.testing.fixtures import IDS, make_layout, make_updates, tiny_layout
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.pairs import hides_single
from sparring.testing.stage import clip_bounds, holds, real
from sparring.testing.subject import Trial, on_server

SERVER = on_server(Site.COHORT, Site.AGGREGATE, Site.RELEASE)
SPACES = on_server(Site.UPDATE, Site.COHORT, Site.AGGREGATE, Site.RELEASE)
MIXING = on_server(Site.COHORT, Site.AGGREGATE)
NEAR = 1e-5
ALONE = 0.97
"""Correlation with one client's row from which on a released row counts as that row."""


def played(trial: Trial, signal: Any) -> Any:
    """What a fresh instance makes of a signal whose clients are the round's cohort."""
    ids = signal.sources if isinstance(signal, Cohort) else signal.ids if isinstance(signal, Updates) else IDS
    return trial.apply(trial.build(), signal, trial.context(cohort=ids))


def numbers(signal: Updates | Cohort | Release) -> Tensor:
    """Every number of a signal, as rows."""
    return signal.vector[None] if isinstance(signal, Release) else signal.rows


def many(trial: Trial, layout: Layout | None = None, seed: int = 0) -> Cohort:
    """A cohort that is large enough for the ``f`` of a rule, in float64; of the lab's model where it is trained."""
    n = max(9, 4 * getattr(trial.config, "f", 0) + 5)
    trains = any(isinstance(fact, PublicData) for fact in trial.facts)
    layout = tiny_layout() if layout is None and trains else layout
    updates = make_updates(n, 40, layout=layout, seed=seed, dtype=torch.float64)
    return Cohort(updates.rows, updates.layout, updates.ids, updates.weights, sources=updates.ids)


def _ordinary(trial: Trial) -> Any:
    return many(trial) if trial.site in (Site.COHORT, Site.AGGREGATE) and not clip_bounds(trial.facts) else trial.signal()


@check(SPACES)
def space_as_declared(trial: Trial) -> None:
    """Law: where a layer keeps or gives Space(real), numbers are finite floats; in another space, integers of its ring.
    Why: whatever comes next adds, clips and averages them as what the fact says.
    If this fails: give the space that the numbers are in, and say so in the layout.
    """
    after = played(trial, _ordinary(trial))
    rows, layout = numbers(after), after.layout
    demand(rows.shape[1] == layout.size, f"rows have {rows.shape[1]} columns, the layout {layout.size}")
    for fact in trial.signature.gives:
        if isinstance(fact, Space):
            demand(layout.space.kind == fact.kind, f"it gives {fact}; the layout says {layout.space.kind}")
            same = fact.modulus is None or layout.space.modulus == fact.modulus
            demand(same, f"it gives {fact}; the layout says modulus {layout.space.modulus}")
    if real(trial.signature):
        demand(rows.is_floating_point(), f"rows came out as {rows.dtype}")
        demand(bool(rows.isfinite().all()), "finite rows came out with NaN or infinity")
        demand(layout.space.kind == "real", f"the layout says {layout.space.kind}")
    elif layout.space.modulus is not None:
        inside = not rows.is_floating_point() and int(rows.min()) >= 0 and int(rows.max()) < layout.space.modulus
        demand(inside, f"its rows are {rows.dtype}, or leave 0 .. {layout.space.modulus - 1}")


@check(SERVER)
def summable_kept(trial: Trial) -> None:
    """Law: behind a layer on the server that keeps Summable, a row has the columns that it had.
    Why: signals with other columns cannot be added to what came before them.
    If this fails: keep the layout, or do not keep Summable.
    """
    if not holds(trial.signature, Summable()):
        raise Inapplicable("it does not keep Summable")
    signal = _ordinary(trial)
    after = played(trial, signal)
    names = [[(s.name, s.shape) for s in part.layout.segments] for part in (signal, after)]
    demand(names[0] == names[1], f"it keeps Summable, but its columns became {[name for name, _ in names[1]][:4]}")


@check(SERVER)
def weighted_kept(trial: Trial) -> None:
    """Law: a rule that keeps Weighted releases the mean weighted by numbers of examples; a layer beside it keeps the weights.
    Why: accuracy per example, and every sensitivity of a weighted mean, are computed from these weights.
    If this fails: use `cohort.weights` in the rule, carry them along elsewhere, or do not keep Weighted.
    """
    if not holds(trial.signature, Weighted()):
        raise Inapplicable("it does not keep Weighted")
    signal = _ordinary(trial)
    after = played(trial, signal)
    if isinstance(after, Release) and isinstance(signal, Release):
        demand(after.total == signal.total, f"it keeps Weighted, but the total weight {signal.total:g} became {after.total:g}")
        return
    assert signal.weights is not None
    mean, total = _mean(signal), float(signal.weights.sum())
    if isinstance(after, Release):
        off = float((after.vector - mean).norm() / mean.norm())
        demand(off < NEAR, f"it keeps Weighted, but its release is off the weighted mean by {off:.2g} of its norm")
        close = abs(after.total - total) <= NEAR * total
        demand(close, f"it keeps Weighted, but its total is {after.total:g} of weights {total:g}")
        return
    demand(after.weights is not None, "it keeps Weighted, but its rows carry no weights")
    if after.ids is not None:
        held = dict(zip(signal.ids or (), signal.weights.tolist(), strict=True))
        kept = dict(zip(after.ids, after.weights.tolist(), strict=True))
        wrong = [client for client, w in kept.items() if held.get(client) != w]
        demand(not wrong, f"it keeps Weighted, but the weight of client {wrong and wrong[0]} changed")
        return
    off = float((_mean(after) - mean).norm() / mean.norm())
    demand(off < NEAR, f"it keeps Weighted and mixes rows, but their weighted mean is off by {off:.2g}")


def _mean(cohort: Cohort) -> Tensor:
    assert cohort.weights is not None
    return cohort.weights.to(cohort.rows) @ cohort.rows / cohort.weights.sum()


@check(SERVER)
def identified_kept(trial: Trial) -> None:
    """Law: where Identified is kept on the server, a row and its id stay together, and none but the cohort's ids appear.
    Why: reputations and exclusions are booked on ids.
    If this fails: select rows and ids by one index, give `ids=None` to mixed rows, or do not keep Identified.
    """
    if not holds(trial.signature, Identified()):
        raise Inapplicable("it does not keep Identified")
    signal = _ordinary(trial)
    after = played(trial, signal)
    if isinstance(after, Release):
        known = signal.ids if isinstance(signal, Cohort) else signal.excluded
        strange = set(after.excluded) - set(known or ())
        demand(not strange, f"it keeps Identified, and excludes clients {sorted(strange)}, which are not in the cohort")
        return
    demand(after.ids is not None, "it keeps Identified, but its rows have no ids")
    demand(len(set(after.ids)) == len(after.ids) == len(after), f"{len(after)} rows have ids {after.ids}")
    demand(set(after.ids) <= set(signal.ids), f"ids {sorted(set(after.ids) - set(signal.ids))} appeared")
    back = torch.arange(len(signal) - 1, -1, -1)
    again = played(trial, signal.select(back))
    rows, others = (dict(zip(c.ids, c.rows, strict=True)) for c in (after, again))
    demand(rows.keys() == others.keys(), "which clients stay depends on the order of rows")
    for client, row in rows.items():
        off = float((row - others[client]).norm() / row.norm().clamp(min=1e-30))
        demand(off < NEAR, f"the row of client {client} depends on the order of rows (off by {off:.2g})")


@check(MIXING)
def released_rows_hide(trial: Trial) -> None:
    """Law: a rule or COHORT layer that hides Readable(server, update, client) hands on no single client's row.
    Why: whoever reads what it hands on would read that update.
    If this fails: hand on sums of several clients, or do not hide the fact.
    """
    if not hides_single(trial.signature):
        raise Inapplicable("it hides no single update")
    layout = make_layout(4096)
    cohort = many(trial, layout)
    own = torch.randn(cohort.base.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    cohort = Cohort(own, layout, cohort.ids, cohort.weights, sources=cohort.sources)
    seen = torch.nn.functional.normalize(numbers(played(trial, cohort)).double(), dim=1)
    closest = float((seen @ torch.nn.functional.normalize(own, dim=1).T).abs().max())
    demand(closest < ALONE, f"it hides single updates, but hands on a row that is {closest:.4f} correlated with one client's")
