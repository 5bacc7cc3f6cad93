"""Krum: the update that lies closest to its neighbours."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.bounds import admit
from sparring_aggregation.plugin import KrumConfig
from sparring_aggregation.scores import first, nearest, nothing, others, picked


@final
class Krum(Aggregator):
    r"""The row $x_{i^*}$, $i^* = \arg\min_i \sum_{i \to j} \lVert x_i - x_j \rVert^2$; $i \to j$: the n - f - 2 nearest rows.

    Works from the cohort's distances, so that mixed rows are never formed; distances are over all columns, buffers too. Of tied
    rows the client of smallest id wins, as in the paper. The other clients are reported as excluded where rows still have ids.
    Weights are not respected. n = 0: a zero release of total weight 0. Raises `ConfigError` unless 2f + 2 < n.

    Source: Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries", NeurIPS 2017, 1703.02757.
    """

    def __init__(self, config: KrumConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f + 2 < n."""
        admit("krum", self.config.f, n, "2f + 2 < n", (n - 3) // 2)

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The chosen row [d]; its total is 1."""
        del ctx
        n, f = len(cohort), self.config.f
        if n == 0:
            return nothing(cohort)
        self.admit(n)
        distances, by_id = others(cohort)
        scores = nearest(distances, n - f - 2)
        return picked(cohort, by_id[first(scores)])
