"""Checks of the edges of every mechanism and rule: zero, denormal, huge, tied, alone, nobody, NaN and infinity."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sparring.errors import RoundAborted, SparringError
from sparring.local import Batch
from sparring.signals import Broadcast, Cohort, Release, Updates
from sparring.sites import Site
from sparring.testing.fixtures import IDS, make_updates, tiny_layout, tiny_plan
from sparring.testing.kit import check, demand
from sparring.testing.local import flat, gradient_of, make_batch, make_plan
from sparring.testing.stage import clip_bounds, clipped
from sparring.testing.subject import Trial, layers, on_server

EDGES = on_server(Site.BROADCAST, Site.UPDATE, Site.COHORT, Site.AGGREGATE, Site.RELEASE)
COHORTS = on_server(Site.UPDATE, Site.COHORT, Site.AGGREGATE)
SCALES = {"zero": 0.0, "denormal": 1e-40, "at 1e18": 1e18, "at 1e30": 1e30}
BAD = {"NaN": torch.nan, "+Inf": torch.inf, "-Inf": -torch.inf}
SLACK = 1e-5


def _many(trial: Trial) -> Updates:
    n = max(9, 4 * getattr(trial.config, "f", 0) + 5)
    return make_updates(n, layout=tiny_layout())


def _finite(trial: Trial) -> Iterator[tuple[str, Updates]]:
    """Finite updates at the edges, within the bounds that hold where the layer stands."""
    plain = _many(trial)
    bounds = clip_bounds(trial.facts)
    for name, scale in SCALES.items():
        rows = plain.rows.clone()
        rows[::3] = scale * rows[::3].sign()
        rows[1::3] = -scale
        yield f"two thirds of the rows {name}", clipped(replace(plain, rows=rows), bounds)
    entry = plain.rows.clone()
    entry[0, 7] = 1e30
    yield "one entry at 1e30", clipped(replace(plain, rows=entry), bounds)
    yield "equal rows", clipped(replace(plain, rows=plain.rows[:1].expand_as(plain.rows).clone()), bounds)
    yield "rows of ties", clipped(replace(plain, rows=plain.rows.sign()), bounds)


def _placed(trial: Trial, updates: Updates) -> Iterator[Any]:
    """Updates as signals of the layer's site; where one is a single row, the first three rows in turn."""
    if trial.site is Site.UPDATE:
        yield updates
    elif trial.site in (Site.COHORT, Site.AGGREGATE):
        yield Cohort(updates.rows, updates.layout, updates.ids, updates.weights, sources=updates.ids)
    else:
        for row in updates.rows[:3]:
            released = trial.site is Site.RELEASE
            yield Release(row, updates.layout, 60.0, 6) if released else Broadcast(tiny_plan(), row, updates.layout)


def attempt(trial: Trial, signal: Any, what: str) -> Any:
    """What a fresh instance makes of a signal; None where it refuses with an error that users can mend, or aborts."""
    ids = signal.sources if isinstance(signal, Cohort) else signal.ids if isinstance(signal, Updates) else IDS
    try:
        return trial.apply(trial.build(), signal, trial.context(cohort=ids))
    except (SparringError, RoundAborted):
        return None
    except Exception as error:
        raise AssertionError(f"{what}: it ended with {type(error).__name__}: {error}") from error


def numbers(signal: Any) -> Tensor:
    """Every number of a signal as rows [m, d]."""
    if isinstance(signal, Broadcast):
        return torch.stack([signal.row, *(own.row for own in signal.overrides.values())])
    return signal.vector[None] if isinstance(signal, Release) else signal.rows


@check(EDGES)
def edge_rows(trial: Trial) -> None:
    """Law: finite rows give finite rows of their layout's width, or an error that users can mend; a rule refuses no value.
    Why: one client that sends 1e30, or nothing but zeros, must not end the run for all.
    If this fails: subtract a reference before squaring, square in float64, divide only by what cannot be 0.
    """
    for what, updates in _finite(trial):
        for signal in _placed(trial, updates):
            after = attempt(trial, signal, what)
            refused = after is None and trial.site is Site.AGGREGATE and not trial.sampled
            demand(not refused, f"{what}: it refuses them")
            if after is not None:
                rows = numbers(after)
                demand(rows.shape[1] == after.layout.size, f"{what}: out came {rows.shape[1]} of {after.layout.size} columns")
                demand(bool(rows.isfinite().all()), f"{what}: out came NaN or infinity")


@check(COHORTS)
def edge_alone(trial: Trial) -> None:
    """Law: one client is handled, or refused with an error that users can mend; what comes out is finite.
    Why: Poisson cohorts and dropouts leave one client some day, and a deviation of one row is 0 / 0.
    If this fails: divide by max(n - 1, 1), or refuse n = 1 with value, rule and fix.
    """
    plain = _many(trial)
    alone = clipped(plain.select(plain.ids[:1]), clip_bounds(trial.facts))
    for signal in _placed(trial, alone):
        after = attempt(trial, signal, "one client")
        demand(after is None or bool(numbers(after).isfinite().all()), "one client: out came NaN or infinity")


@check(COHORTS)
def edge_nobody(trial: Trial) -> None:
    """Law: of no rows come no rows, or a release of total weight 0; or an error that users can mend.
    Why: Poisson sampling and refusals leave nobody some day; the engine then keeps its state.
    If this fails: return early where the signal is empty.
    """
    plain = _many(trial)
    for signal in _placed(trial, plain.select([])):
        after = attempt(trial, signal, "no rows")
        if isinstance(after, Release):
            demand(after.total == 0, f"of no rows it made a release of total weight {after.total:g}")
        elif after is not None:
            demand(len(numbers(after)) == 0, f"of no rows it made {len(numbers(after))}")


def _broken(trial: Trial) -> Iterator[tuple[str, Updates, int]]:
    """Updates in which one row, or one entry of it, is not finite."""
    plain = clipped(_many(trial), clip_bounds(trial.facts))
    for name, value in BAD.items():
        for k, columns in ((0, slice(7, 8)), (2, slice(None))):
            rows = plain.rows.clone()
            rows[k, columns] = value
            yield f"{name} in {'one entry' if columns.stop else 'every entry'} of row {k}", replace(plain, rows=rows), k


def _within(found: Tensor, low: Tensor, high: Tensor) -> bool:
    """Whether a row carries NaN or infinity on, or lies in a range."""
    slack = SLACK * (high - low).abs() + 1e-12
    return not bool(found.isfinite().all()) or bool(((found >= low - slack) & (found <= high + slack)).all())


def _invented(after: Any, updates: Updates, k: int) -> bool:
    """Whether what came of updates whose row ``k`` is not finite is a finite number that no finite row accounts for."""
    if isinstance(after, Updates):
        out = after.select([i for i in updates.ids[k : k + 1] if i in after.ids]).rows
    else:
        out = numbers(after)
    if isinstance(after, Updates | Broadcast) or len(updates.ids) == 1:
        own = updates.rows[k].nan_to_num(0, 0, 0)
        low, high = own.min().clamp(max=0), own.max().clamp(min=0)
    else:
        fine = updates.rows.isfinite()
        low = updates.rows.masked_fill(~fine, torch.inf).min(0).values
        high = updates.rows.masked_fill(~fine, -torch.inf).max(0).values
        if isinstance(after, Cohort):  # rows may be scaled towards 0
            low, high = low.clamp(max=0), high.clamp(min=0)
    return any(not _within(row, low, high) for row in out)


@check(EDGES)
def edge_nonfinite(trial: Trial) -> None:
    """Law: NaN or infinity in a row is refused, dropped with the row, carried on, or outvoted by finite rows: never a number.
    Why: the engine stops on what is not finite; a number that came from NaN goes unseen into the model.
    If this fails: do not clamp, encode or `nan_to_num` a row before you know that it is finite.
    """
    single = trial.site in (Site.RELEASE, Site.BROADCAST)
    for what, updates, k in _broken(trial):
        seen, place = (updates.select(updates.ids[k : k + 1]), 0) if single else (updates, k)
        for signal in _placed(trial, seen):
            after = attempt(trial, signal, what)
            invented = after is not None and _invented(after, seen, place)
            demand(not invented, f"{what}: it became a finite number outside the range of what was finite")


@check(layers(Site.GRADIENT))
def edge_lots(trial: Trial) -> None:
    """Law: lots of zeros, denormals, 1e30 and duplicates give finite gradients; NaN is carried on or its example left out.
    Why: one malformed example must not end a run unseen, nor become a number that no one sent.
    If this fails: guard divisions by norms; give an example whose gradient is not finite the weight 0, or let it through.
    """
    plan, plain = make_plan(trial), make_batch(6, 1)
    for what, scale in (("zeros", 0.0), ("denormals", 1e-310), ("inputs up to 1e30", 1e30)):
        found = flat(gradient_of(plan, Batch(scale * plain.x, plain.y)))
        demand(bool(found.isfinite().all()), f"a lot of {what} gives NaN or infinity")
    same = Batch(plain.x[:1].expand_as(plain.x), plain.y[:1].expand_as(plain.y))
    demand(bool(flat(gradient_of(plan, same)).isfinite().all()), "a lot of one example six times gives NaN or infinity")
    mask = torch.ones(6, dtype=torch.float64)
    mask[2] = 0
    without = flat(gradient_of(plan, Batch(plain.x, plain.y, mask)))
    for name, value in BAD.items():
        x = plain.x.clone()
        x[2] = value
        try:
            found = flat(gradient_of(plan, Batch(x, plain.y)))
        except SparringError:
            continue
        left_out = bool(((found - without).norm() <= 1e-9 * without.norm().clamp(min=1e-30)).item())
        kept = not bool(found.isfinite().all()) or left_out
        demand(kept, f"an example of {name} gives a finite gradient that is not the one without it")
