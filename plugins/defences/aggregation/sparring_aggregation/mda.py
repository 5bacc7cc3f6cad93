"""Minimum diameter averaging."""

from __future__ import annotations

from math import comb
from typing import final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.plugin_selection import MDAConfig
from sparring_aggregation.selection import admit_minority, by_client, mean_of, nobody

LARGEST = 16
"""The largest f: the search branches at most 1.62^f times, two thousand times here, for each diameter that it tries."""
ROUNDING = 64
"""Ulps within which two diameters count as the same."""


@final
class MinimumDiameter(Aggregator):
    r"""The mean of the subset of least diameter.

    $$R = \frac{1}{n-f} \sum_{i \in S^*} x_i, \quad S^* \in \arg\min_{|S| = n-f} \max_{i,j \in S} \lVert x_i - x_j \rVert$$

    Exact: a diameter t is reached where f rows meet every pair that lies further apart, which is a vertex cover; it is searched
    by branching, within a bisection over the pairs' distances. Of tied subsets the one that comes first in the order of client
    ids is taken. Distances are over all columns, buffers too; weights are not respected. n = 0: a zero release of total weight
    0. Raises `ConfigError` unless 2f < n and f is at most 16.

    Source: El Mhamdi, Guerraoui, Guirguis, Hoang and Rouault: Genuinely Distributed Byzantine Machine Learning, PODC 2020,
    1905.03853; first in Rousseeuw: Multivariate Estimation with High Breakdown Point, 1985.
    """

    def __init__(self, config: MDAConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f < n and f is at most 16."""
        f = self.config.f
        admit_minority("mda", f, n)
        if f > LARGEST:
            raise ConfigError(
                f"'mda' with f = {f} got n = {n} updates: the best of C({n}, {f}) = {comb(n, f):.4g} subsets is searched, in "
                f"up to 1.62^f steps; f must be at most {LARGEST}: lower it, or use 'caf', which does not search"
            )

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The mean [d]; its total is n - f."""
        del ctx
        if len(cohort) == 0:
            return nobody(cohort)
        self.admit(len(cohort))
        order = by_client(cohort)
        eps = min(torch.finfo(cohort.base.dtype).eps, torch.finfo(torch.float32).eps)
        kept = closest(cohort.distances[order][:, order].cpu(), self.config.f, 1 + ROUNDING * eps)
        return mean_of(cohort, order[torch.tensor(kept, device=order.device)])


def closest(distances: Tensor, f: int, slack: float) -> list[int]:
    """The first subset of n - f rows whose largest of ``distances`` [n, n] is least, up to the factor ``slack``."""
    n = len(distances)
    symmetric = ((distances + distances.T) / 2).nan_to_num(torch.inf)
    tried = symmetric.unique()
    low, high = 0, len(tried) - 1
    everyone = (1 << n) - 1
    while low < high:
        middle = (low + high) // 2
        if coverable(_apart(symmetric, float(tried[middle]) * slack), everyone, f):
            high = middle
        else:
            low = middle + 1
    apart = _apart(symmetric, float(tried[low]) * slack)
    kept: list[int] = []
    left, spare = everyone, f
    for row in range(n):
        if left >> row & 1:
            beside = apart[row] & left
            rest = left & ~(beside | ((2 << row) - 1))
            if beside.bit_count() <= spare and coverable(apart, rest, spare - beside.bit_count()):
                kept.append(row)
                left, spare = left & ~beside, spare - beside.bit_count()
            else:
                left, spare = left & ~(1 << row), spare - 1
    return kept[: n - f]


def _apart(distances: Tensor, limit: float) -> list[int]:
    """For each row, as bits, the rows that lie further from it than ``limit``."""
    return [sum(1 << k for k, far in enumerate(line) if far) for line in (distances > limit).tolist()]


def coverable(edges: list[int], left: int, k: int) -> bool:
    """Whether ``k`` of the vertices ``left`` (as bits) meet every edge between them."""
    most, at, ends, rest = 0, 0, 0, left
    while rest:
        vertex = (rest & -rest).bit_length() - 1
        rest &= rest - 1
        degree = (edges[vertex] & left).bit_count()
        ends += degree
        if degree > most:
            most, at = degree, vertex
    if most <= 1:
        return ends <= 2 * k
    if ends > 2 * k * most:
        return False
    without = left & ~(1 << at)
    if coverable(edges, without, k - 1):
        return True
    return most <= k and coverable(edges, without & ~edges[at], k - most)
