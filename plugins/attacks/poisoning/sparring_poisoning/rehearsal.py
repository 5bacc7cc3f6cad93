"""Rehearsing: what the server's own rule would make of a row, and the multiple of a direction that moves it furthest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.signals import Cohort, Release, Updates
from sparring_poisoning.plugin_crafted import Sides


@dataclass(frozen=True)
class Rehearsal:
    """The cohort that the server is expected to have: ``own`` clients, who all send one row, beside the ``others``."""

    own: Updates
    others: Updates
    aggregate: Callable[[Cohort], Release]

    def release(self, params: Tensor) -> Release:
        """What the server would release if each of the ``own`` clients sent the parameters ``params`` [p]."""
        rows = torch.cat([self.own.rows, self.others.rows])
        rows[: len(self.own.ids), : len(params)] = params
        ids = (*self.own.ids, *self.others.ids)
        a, b = self.own.weights, self.others.weights
        weights = None if a is None or b is None else torch.cat([a, b.to(a)])
        return self.aggregate(Cohort(rows, self.own.layout, ids, weights, sources=ids))

    def damage(self, params: Tensor, mu: Tensor, admitted: bool) -> Tensor:
        r"""$\lVert \mathrm{AGG} - \mu \rVert$; minus infinity for NaN, or with ``admitted`` where all own rows are excluded."""
        release = self.release(params)
        if admitted and set(self.own.ids) <= set(release.excluded):
            return torch.full((), -torch.inf, dtype=torch.float64, device=mu.device)
        distance: Tensor = (release.params - mu).double().norm()
        return distance.masked_fill(distance.isnan(), -torch.inf)


def rehearse(signal: Updates, known: Updates, ctx: Round) -> Rehearsal:
    """The rehearsal of a round of which the attack sees ``known``: the benign updates, or else its own honestly trained ones.

    In the latter case stand-ins take the places of the other sampled clients (`stand_ins`). Raises `ConfigError` where the
    rule is not granted.
    """
    if ctx.aggregate is None:
        raise ConfigError(
            f"'{ctx.layer or 'attack'}' tries what it sends on the server's rule, which is not granted to it; "
            "grant it in the threat model (knows: [aggregator])"
        )
    theirs = known if set(known.ids).isdisjoint(signal.ids) else stand_ins(known, ctx)
    return Rehearsal(signal, theirs, ctx.aggregate)


def stand_ins(own: Updates, ctx: Round) -> Updates:
    r"""Rows for the other n - m sampled clients: the own m ones, then draws from the normal distribution that fits these.

    A draw is $\mu + (m-1)^{-1/2} \sum_i z_i (x_i - \mu)$, $z_i \sim \mathcal N(0, 1)$: its covariance is the own rows', so
    that draws lie as far from each other as these do (repeating rows would put some at distance 0, which rules of distances
    prefer). With m = 1 all are alike. Each has the mean of the own weights.
    """
    m, ids = len(own.ids), tuple(sorted(set(ctx.cohort) - set(own.ids)))
    mu = own.rows.mean(dim=0)
    z = torch.randn(max(len(ids) - m, 0), m, generator=ctx.generator(), dtype=own.rows.dtype).to(own.rows.device)
    drawn = mu + z @ (own.rows - mu) / max(m - 1, 1) ** 0.5
    weights = None if own.weights is None else own.weights.mean().expand(len(ids))
    return Updates(torch.cat([own.rows[: len(ids)], drawn]), own.layout, ids, weights)


def span(sides: Sides, most: float) -> tuple[float, float]:
    """The multiples that are tried: up to ``most`` (minus), down to minus it (plus), or both."""
    return (0.0 if sides == "minus" else -most), (0.0 if sides == "plus" else most)


def maximise(damage: Callable[[float], Tensor], low: float, high: float, evaluations: int) -> float:
    """The best of ``evaluations`` points of [low, high]: half of them a grid, the others within a step of its best point.

    Of points that are equally good the lowest of the grid wins. It resolves 4 (high - low) / evaluations^2, or twice that at
    the ends; a peak that is narrower than a step of the grid may be missed.
    """
    coarse = torch.linspace(low, high, (evaluations + 1) // 2, dtype=torch.float64).tolist()
    first = _values(damage, coarse)
    step, best = coarse[1] - coarse[0], coarse[int(first.argmax())]
    fine = torch.linspace(max(low, best - step), min(high, best + step), evaluations // 2 + 2, dtype=torch.float64)[
        1:-1
    ].tolist()
    both = torch.cat([first, _values(damage, fine)])
    return float([*coarse, *fine][int(both.argmax())])


def _values(damage: Callable[[float], Tensor], points: Sequence[float]) -> Tensor:
    return torch.stack([damage(point) for point in points])
