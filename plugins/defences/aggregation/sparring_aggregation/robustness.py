"""How robust a rule is, numerically: what reference cards and tests of (f, kappa)-robustness measure with."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.keys import Key
from sparring.roles import Aggregator, Defence
from sparring.signals import Cohort
from sparring.testing.fixtures import make_layout, make_round

FAR = 1e6
Estimate = Callable[[Tensor], Tensor]
"""From rows [n, d] to one vector [d]."""


def gaussian(n: int, d: int, name: str) -> Tensor:
    """Rows [n, d] of independent N(0, 1), float64; other rows for another ``name``."""
    return torch.randn(n, d, generator=Key(0, ("robustness", name)).generator(), dtype=torch.float64)


def cohort(rows: Tensor) -> Cohort:
    """The cohort of clients 0, 1, ..., n - 1."""
    return Cohort(rows, make_layout(rows.shape[1]), tuple(range(len(rows))))


def estimate(rule: Aggregator | WeightedMean, *layers: Defence[Cohort]) -> Estimate:
    """What ``rule`` makes of rows behind ``layers``."""

    def made(rows: Tensor) -> Tensor:
        signal = cohort(rows)
        for layer in layers:
            signal = layer.defence_transform(signal, make_round())
        return rule.server_aggregate(signal, make_round()).vector

    return made


def moved(of: Estimate, rows: Tensor, f: int) -> float:
    """The largest distance of a coordinate from the mean of the other rows once the first f rows are at 1e6."""
    lying = rows.clone()
    lying[:f] = FAR
    return float((of(lying) - rows[f:].mean(0)).abs().max())


def ratio(of: Estimate, rows: Tensor, f: int) -> float:
    r"""The largest $\lVert R - \bar x_S \rVert^2 / \frac{1}{|S|} \sum_{i \in S} \lVert x_i - \bar x_S \rVert^2$ over every S of
    n - f rows: kappa is at least as large.
    """
    subsets = torch.tensor(list(combinations(range(len(rows)), len(rows) - f)))
    own = rows[subsets]
    mean = own.mean(dim=1)
    spread = (own - mean[:, None]).square().sum(dim=2).mean(dim=1)
    return float(((of(rows) - mean).square().sum(dim=1) / spread).max())


def worst_ratio(of: Estimate, n: int, f: int, steps: int = 40) -> float:
    """The worst `ratio` that a search finds: six shapes of rows, each improved by random moves that are kept if they help."""
    generator = Key(0, ("robustness", "search")).generator()

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    worst = 0.0
    for shape in range(6):
        rows = noise(n, 1 + shape % 3)
        rows[:f] += 10.0 ** (shape - 2)
        if shape > 3:
            rows[f:] = rows[f:].sign()
        best = ratio(of, rows, f)
        for _ in range(steps):
            tried = rows + 0.5 * noise(*rows.shape) * (noise(n, 1) < -0.5)
            if (found := ratio(of, tried, f)) > best:
                rows, best = tried, found
        worst = max(worst, best)
    return worst
