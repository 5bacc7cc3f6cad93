"""What the reference cards of aggregation rules share: normal rows, releases, and two measures of a rule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.aggregate import WeightedMean
from sparring.keys import Key
from sparring.roles import Aggregator
from sparring.signals import Cohort
from sparring.testing.fixtures import make_layout, make_round

FAR = 1e6
Rule = Aggregator | WeightedMean


def release(rule: Rule, rows: Tensor, weights: Tensor | None = None) -> Tensor:
    """What the rule makes of rows [n, d] of clients 0 .. n - 1: [d]."""
    cohort = Cohort(rows, make_layout(rows.shape[1]), tuple(range(len(rows))), weights)
    return rule.server_aggregate(cohort, make_round()).vector


def rows(n: int, d: int, name: str) -> Tensor:
    """Rows [n, d] of independent N(0, 1), float64."""
    return torch.randn(n, d, generator=Key(0, ("card", name)).generator(), dtype=torch.float64)


def moved(rule: Rule, rows: Tensor, f: int) -> float:
    """The largest distance of a coordinate from the mean of the honest rows once the first f rows are at 1e6."""
    lying = rows.clone()
    lying[:f] = FAR
    return float((release(rule, lying) - rows[f:].mean(0)).abs().max())


def disagreement(rule: Rule, plain: Callable[[Tensor], Tensor], name: str, least: int = 5) -> float:
    """The largest distance of a rule from its definition over cohorts of ``least`` to 44 rows."""
    cohorts = (rows(n, 20, name) for n in range(least, 45))
    return max(float((release(rule, own) - plain(own)).abs().max()) for own in cohorts)
