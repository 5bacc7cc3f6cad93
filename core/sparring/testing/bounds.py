"""Checks of Clipped and Sensitivity: the bounds that a layer gives, keeps or maps are true of what comes out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from sparring.facts import Clipped, Fact, Sensitivity
from sparring.signals import Cohort, Release, Updates
from sparring.signature import Signature
from sparring.sites import Site
from sparring.testing.fixtures import make_updates, tiny_layout
from sparring.testing.kit import Inapplicable, Scope, check, demand
from sparring.testing.stage import NORMS, clip_bounds, clipped, real
from sparring.testing.subject import Trial, layers, on_server
from sparring.testing.updates import adversarial

SLACK = 1e-5
ROWS = layers(Site.UPDATE, Site.COHORT)
SIZES = (0.01, 1.0, 30.0)


@dataclass(frozen=True)
class Promise:
    """Whatever comes in within ``size`` in ``norm`` (None: whatever comes in) comes out within ``bound`` in ``out``."""

    norm: str | None
    size: float
    out: str
    bound: float
    says: str


def _of(fact: Fact, norm: str | None, size: float, verb: str) -> Iterator[Promise]:
    bounded = isinstance(fact, Clipped | Sensitivity) and fact.unit == "client" and fact.bound is not None
    if bounded and isinstance(fact, Clipped | Sensitivity):
        assert fact.bound is not None
        out = "l2" if isinstance(fact, Sensitivity) else fact.norm
        assert out is not None
        yield Promise(norm, size, out, fact.bound, f"{verb} {fact}")


def promises(signature: Signature, source: Fact, size: float) -> Iterator[Promise]:
    """What a layer promises of contributions per client that were bounded by ``source``, whose number is ``size``."""
    norm = source.norm if isinstance(source, Clipped) else "l2"
    if signature.survives(source):
        yield from _of(source, norm, size, "keeps")
    for m in signature.maps:
        if source.meets(m.source):
            yield from _of(m(source), norm, size, f"maps {source} to")


def given(signature: Signature) -> list[Promise]:
    """What a layer promises whatever comes in."""
    return [promise for fact in signature.gives for promise in _of(fact, None, 0.0, "gives")]


def _sources(trial: Trial, sensitivity: bool = False) -> Iterator[Promise]:
    for size in SIZES:
        for norm in NORMS:
            limit = min(size, clip_bounds(trial.facts).get(norm, size))
            yield from promises(trial.signature, Clipped(norm, "client", "all", limit), limit)  # type: ignore[arg-type]
        if sensitivity:
            yield from promises(trial.signature, Sensitivity("client", size), size)


def _norms(rows: Tensor, norm: str) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(rows.double(), ord=NORMS[norm], dim=-1)
    return norms


def _placed(trial: Trial, updates: Updates) -> Updates | Cohort:
    """Updates as the signal of the layer's site."""
    if trial.site is Site.UPDATE:
        return updates
    return Cohort(updates.rows, updates.layout, updates.ids, updates.weights, sources=updates.ids)


def _rows(signal: Updates | Cohort) -> Updates:
    """Any signal of rows as updates."""
    if isinstance(signal, Updates):
        return signal
    ids = signal.ids if signal.ids is not None else tuple(range(len(signal)))
    return Updates(signal.rows, signal.layout, ids, signal.weights)


def _declares(kind: type[Fact]) -> Scope[Trial]:
    return ROWS.where(lambda s: s.declares(lambda signature: any(isinstance(f, kind) for f in signature.gives)))


@check(_declares(Clipped))
def clipped_given(trial: Trial) -> None:
    """Law: behind a layer that gives Clipped(norm, client, bound), every row's norm is at most the bound, whatever came in.
    Why: noise is scaled by this number; one row over it, and no epsilon that was computed from it is true.
    If this fails: scale by norms in float64, take parameters only, and stay a few ulps below the bound.
    """
    found = given(trial.signature)
    if not found or not real(trial.signature):
        raise Inapplicable("it gives no Clipped per client in reals")
    ordinary = _rows(trial.signal(1))
    for updates in (adversarial(), ordinary, replace(ordinary, rows=ordinary.rows * 50)):
        after = _rows(trial.apply(trial.build(), _placed(trial, updates), trial.context()))
        for promise in found:
            worst = float(_norms(after.params, promise.out).max())
            within = worst <= promise.bound * (1 + SLACK)
            demand(within, f"it {promise.says}, but a row has {promise.out} norm {worst:.9g}")


@check(ROWS)
def clipped_kept(trial: Trial) -> None:
    """Law: behind a layer that keeps or maps Clipped(norm, client), rows that were within a bound are within that bound.
    Why: the checker lets a later layer scale its noise by the bound that an earlier one gave.
    If this fails: list only the norms that the layer cannot raise, or map the fact to its new bound.
    """
    found = list(_sources(trial))
    if not found or not real(trial.signature):
        raise Inapplicable("it keeps and maps no Clipped per client in reals")
    for k, promise in enumerate(found):
        assert promise.norm is not None
        signal = _rows(trial.signal(k))
        held = {**clip_bounds(trial.facts), promise.norm: promise.size}
        updates = clipped(replace(signal, rows=signal.rows * 1e3), held)
        after = _rows(trial.apply(trial.build(), _placed(trial, updates), trial.context(seed=k)))
        largest, grown = float(_norms(updates.params, promise.norm).max()), float(_norms(after.params, promise.out).max())
        limit = largest * promise.bound / promise.size
        within = grown <= limit * (1 + SLACK)
        demand(within, f"it {promise.says}, but made a row of {promise.out} norm {grown:.6g} from {promise.norm} {largest:.6g}")


def _opposed(promise: Promise, n: int, seed: int) -> Updates:
    """Rows of the promised size, all alike but the first one or two, which point the other way; the first may outweigh all."""
    updates = make_updates(n, layout=tiny_layout(), seed=seed, dtype=torch.float64)
    axis = torch.zeros_like(updates.rows[:1])
    axis[0, 0] = 1
    common = updates.rows[:1] if seed % 2 else axis
    rows = 1e9 * common + 1e-3 * updates.rows
    rows[: 1 + seed % 2] *= -1
    weights = torch.ones(n, dtype=torch.float64)
    weights[0] = (1.0, 1000.0)[seed % 2]
    made = replace(updates, rows=rows, weights=weights)
    return made if promise.norm is None else clipped(made, {promise.norm: promise.size})


def _moved(trial: Trial, promise: Promise, seed: int) -> float:
    """How far leaving one client out moves a rule's release, at most."""
    n = max(9, 4 * getattr(trial.config, "f", 0) + 5)
    updates = _opposed(promise, n, seed)

    def release(ids: tuple[int, ...]) -> Tensor:
        own = updates.select(ids)
        found: Release = trial.apply(trial.build(), _placed(trial, own), trial.context(cohort=ids))
        return found.params

    whole = release(updates.ids)
    left = [release(tuple(i for i in updates.ids if i != client)) for client in updates.ids[:3]]
    return max(float(_norms(whole - other, promise.out)) for other in left)


def _stretched(trial: Trial, promise: Promise, seed: int) -> float:
    """How far apart a RELEASE layer leaves two releases that one client tells apart, under one stream."""
    updates = _opposed(promise, 2, seed)
    base = 3 * make_updates(1, layout=updates.layout, seed=seed + 9, dtype=torch.float64).rows[0]
    pair = (base, base + updates.rows[0])
    first, second = (
        trial.apply(trial.build(), Release(vector, updates.layout, 60.0, 6), trial.context()).params for vector in pair
    )
    return float(_norms(first - second, promise.out))


SERVER = on_server(Site.AGGREGATE, Site.RELEASE)


@check(SERVER)
def sensitivity_bounded(trial: Trial) -> None:
    """Law: one client more or less moves a release by at most the bound that a rule or RELEASE layer gives, keeps or maps to.
    Why: central noise is scaled by this number; a release that moves further has no epsilon.
    If this fails: bound the pair of releases in the worst case (2C for a weighted mean of a ball of radius C), or claim none.
    """
    released = trial.site is Site.RELEASE
    found = [*given(trial.signature), *_sources(trial, sensitivity=released)]
    if not found:
        raise Inapplicable("it promises no bound per client")
    for promise in found:
        for seed in (0, 1):
            moved = (_stretched if released else _moved)(trial, promise, seed)
            within = moved <= promise.bound * (1 + SLACK)
            demand(within, f"it {promise.says}, but one client moves the release by {moved:.6g} in {promise.out}")
