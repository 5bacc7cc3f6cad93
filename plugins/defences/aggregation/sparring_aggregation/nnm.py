"""Nearest-neighbour mixing."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Sizing
from sparring.signals import Cohort
from sparring_aggregation.plugin_pre import NNMConfig
from sparring_aggregation.selection import admit_minority, by_client, nearest


@final
class NearestNeighbourMixing(Defence[Cohort], Sizing):
    r"""Replaces each row by the mean of its neighbourhood.

    $$y_i = \frac{1}{n-f} \sum_{j \in N_i} x_j$$

    $N_i$: the n - f rows nearest to $x_i$, itself always among them; of tied rows those of smallest client ids. Mixes lazily:
    with M the matrix of the means, distances behind it come from $M G M^T$, and no row is formed. If a rule is
    (f, kappa)-robust, the rule behind it is (f, kappa')-robust with $\kappa' \le \frac{8f}{n-f} (\kappa + 1)$.

    Rows come out in ascending order of their clients, without ids and weights. n = 0: no rows. A row that is not finite makes
    all rows NaN. Raises `ConfigError` unless 2f < n. Source: Allouah, Farhadkhani, Guerraoui, Gupta, Pinot and Stephan: Fixing
    by Mixing: A Recipe for Optimal Byzantine ML under Heterogeneity, AISTATS 2023, 2302.01772.
    """

    def __init__(self, config: NNMConfig) -> None:
        self.config = config

    def admit(self, n: int) -> int:
        """As many rows go on; raises `ConfigError` unless 2f < n."""
        if n:
            admit_minority("nnm", self.config.f, n)
        return n

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The mixed cohort [n, d]."""
        del ctx
        n, f = self.admit(len(signal)), self.config.f
        if n == 0:
            return signal
        order = by_client(signal)
        neighbours = nearest(signal.distances.clone().fill_diagonal_(-1)[order], order, n - f)
        mix = torch.zeros(n, n, dtype=torch.float64, device=signal.base.device)
        return signal.mixed(mix.scatter_(1, neighbours, 1 / (n - f)))
