"""Bulyan: repeated choices by Krum, then the middle values of each coordinate of what was chosen."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.bounds import admit
from sparring_aggregation.declared import BulyanConfig
from sparring_aggregation.order import statistic_of
from sparring_aggregation.scores import first, nothing, others, picked
from sparring_aggregation.statistics import Nearest

LARGEST = 1e307
"""What the score of a row that is left counts as, if it is larger: rows that are not left have more."""


@final
class Bulyan(Aggregator):
    r"""Coordinate j is the mean of the $\beta = \theta - 2f$ values closest to the median of $\{x_{i,j}\}_{i \in S}$.

    S: $\theta = n - 2f$ rows, chosen one after the other by Krum among the r rows that are left, each scored by its r - f - 2
    nearest (at least one: the paper's bound leaves none for the last choices). Of values equally far from the median each
    counts half. All choices come from one matrix of distances, over all columns, by masking; rows are gathered block by block,
    so no copy of the cohort is made. Of tied rows the client of smallest id wins. Clients outside S are reported as excluded
    where rows still have ids. Weights are not respected. n = 0: a zero release of total weight 0. Raises `ConfigError` unless
    4f + 3 <= n.

    Source: El Mhamdi, Guerraoui and Rouault, "The hidden vulnerability of distributed learning in Byzantium", ICML 2018,
    1802.07927.
    """

    def __init__(self, config: BulyanConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 4f + 3 <= n."""
        admit("bulyan", self.config.f, n, "4f + 3 <= n", (n - 3) // 4)

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The middle [d] of the chosen rows; its total is theta."""
        del ctx
        n, f = len(cohort), self.config.f
        if n == 0:
            return nothing(cohort)
        self.admit(n)
        distances, by_id = others(cohort)
        chosen = by_id[choices(distances, f, n - 2 * f)]
        return picked(cohort, chosen, statistic_of(cohort, Nearest(n - 4 * f), chosen))


def choices(distances: Tensor, f: int, theta: int) -> Tensor:
    """The rows [theta] that Krum chooses one after the other, from ``distances`` [n, n] with an infinite diagonal."""
    n = len(distances)
    ranked, order = distances.sort(dim=1)
    left = torch.ones(n, dtype=torch.bool, device=distances.device)
    places = torch.arange(n, device=distances.device)
    found: list[Tensor] = []
    for k in range(theta):
        there = left[order]
        near = there & (there.cumsum(dim=1) <= max(1, n - k - f - 2))
        scores = torch.where(near, ranked, 0).sum(dim=1).clamp(max=LARGEST)
        best = first(torch.where(left, scores, torch.inf))
        left = left & (places != best)
        found.append(best)
    return torch.cat(found)
