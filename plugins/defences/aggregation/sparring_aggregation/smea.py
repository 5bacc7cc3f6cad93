"""Smallest maximum eigenvalue averaging."""

from __future__ import annotations

from functools import lru_cache
from itertools import combinations
from math import comb
from typing import final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.plugin_selection import SMEAConfig
from sparring_aggregation.selection import admit_minority, by_client, mean_of, nobody

LARGEST = 50_000
"""How many subsets are compared at most."""
BATCH = 512
ROUNDING = 64
"""Ulps within which two eigenvalues count as the same."""


@final
class SmallestEigenvalue(Aggregator):
    r"""The mean of the subset whose covariance has the least top eigenvalue.

    $$R = \bar x_{S^*}, \quad S^* \in \arg\min_{|S| = n-f} \lambda_{\max}\Bigl(\frac{1}{|S|} \sum_{i \in S} (x_i - \bar x_S)
    (x_i - \bar x_S)^T\Bigr)$$

    Exact: the eigenvalues are those of the centred Gram submatrices, (n - f) x (n - f), in batches; subsets are taken in the
    order of the lower bound $\lVert K \rVert_F^2 / \operatorname{tr} K \le \lambda_{\max}(K)$ until it passes the least that
    was found. Of tied subsets the one that comes first in the order of client ids is taken. Weights are not respected. n = 0: a
    zero release of total weight 0. A row that is not finite makes the release NaN. Raises `ConfigError` unless 2f < n and
    C(n, f) is at most 50,000.

    Source: Allouah, Guerraoui, Gupta, Pinot and Stephan: On the Privacy-Robustness-Utility Trilemma in Distributed Learning,
    ICML 2023, 2302.04787.
    """

    def __init__(self, config: SMEAConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f < n and C(n, f) is at most 50,000."""
        f = self.config.f
        admit_minority("smea", f, n)
        if comb(n, f) > LARGEST:
            raise ConfigError(
                f"'smea' with f = {f} got n = {n} updates: C({n}, {f}) = {comb(n, f):.4g} subsets; it compares {LARGEST} at "
                "most: lower f, sample fewer clients, or use 'caf', which does not search"
            )

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The mean [d]; its total is n - f."""
        del ctx
        n, f = len(cohort), self.config.f
        if n == 0:
            return nobody(cohort)
        self.admit(n)
        order = by_client(cohort)
        gram = cohort.gram[order][:, order].cpu()
        if not bool(gram.isfinite().all()):
            undefined = torch.full((n,), torch.nan, dtype=torch.float64, device=order.device)
            return Release(cohort.combine(undefined), cohort.layout, float(n - f), n - f)
        eps = min(torch.finfo(cohort.base.dtype).eps, torch.finfo(torch.float32).eps)
        return mean_of(cohort, order[flattest(gram, n - f, 1 + ROUNDING * eps).to(order.device)])


@lru_cache(maxsize=4)
def subsets(n: int, k: int) -> Tensor:
    """All subsets [C(n, k), k] of k of n, in lexicographic order."""
    return torch.tensor(list(combinations(range(n), k)))


def flattest(gram: Tensor, k: int, slack: float) -> Tensor:
    """The first subset [k] whose centred part of ``gram`` [n, n] has the least top eigenvalue, up to the factor ``slack``."""
    every = subsets(len(gram), k)
    bounds, at = _lower(gram, every, k).sort()
    tops = torch.full((len(every),), torch.inf, dtype=torch.float64)
    least = torch.inf
    for low in range(0, len(every), BATCH):
        if float(bounds[low]) > least * slack:
            break
        batch = at[low : low + BATCH]
        rows = every[batch]
        part = gram[rows[:, :, None], rows[:, None, :]]
        part = part - part.mean(1, keepdim=True)
        tops[batch] = torch.linalg.eigvalsh(part - part.mean(2, keepdim=True))[:, -1]
        least = float(tops.min().clamp(min=0))
    return every[int((tops <= least * slack).nonzero()[0])]


def _lower(gram: Tensor, rows: Tensor, k: int) -> Tensor:
    """The sum of squared eigenvalues over their sum [m], of each centred submatrix; 0 where there is none."""
    inside = torch.zeros(len(rows), len(gram), dtype=torch.float64).scatter_(1, rows, 1.0)
    sums = inside * (inside @ gram)
    total = sums.sum(dim=1) / k
    squares = ((inside @ gram.square()) * inside).sum(dim=1) - 2 / k * sums.square().sum(dim=1) + total.square()
    trace = inside @ gram.diagonal() - total
    return torch.where(trace > 0, squares / trace.clamp(min=1e-300), 0.0)
