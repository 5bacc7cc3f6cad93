"""Statistics of the ranked values of a coordinate: means of their middle, and of those closest to the median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Middle:
    """The mean of the order statistics ``low`` .. ``high`` - 1 (from 0)."""

    low: int
    high: int

    def ranks(self, n: int) -> range:
        """The order statistics of ``n`` that it reads."""
        del n
        return range(self.low, self.high)

    def __call__(self, ranked: Sequence[Tensor]) -> Tensor:
        """The statistic of those order statistics, each [c]: [c]. Sums in their order, so that every form gives equal bits."""
        total = ranked[0]
        for row in ranked[1:]:
            total = total + row
        return total / len(ranked)


@dataclass(frozen=True)
class Nearest:
    r"""The mean of the k values closest to the median: the window $x_{(s+1)} \dots x_{(s+k)}$ of the ranked values.

    From s = 0 the window moves up while $x_{(s+k+1)}$ lies closer to the median than $x_{(s+1)}$. Where both are equally far,
    each counts half, so that the sign of the values does not matter.
    """

    k: int

    def ranks(self, n: int) -> range:
        """All order statistics."""
        return range(n)

    def __call__(self, ranked: Sequence[Tensor]) -> Tensor:
        """The statistic of all order statistics, each [c]: [c]. Values outside the window count 0 times; none is subtracted."""
        n, k = len(ranked), self.k
        median = (ranked[(n - 1) // 2] + ranked[n // 2]) / 2
        moves = [
            (torch.sign((median - ranked[s]) - (ranked[s + k] - median)) + 1) / 2  # 1: moves on, 1/2: a tie, 0: stays
            for s in range(n - k)
        ]
        total: Tensor | None = None
        for j, row in enumerate(ranked):
            weight = (1 if j < k else moves[j - k]) - (moves[j] if j < n - k else 0)
            term = row if isinstance(weight, int) else row * weight
            total = term if total is None else total + term
        assert total is not None
        return total / k


Statistic = Middle | Nearest
