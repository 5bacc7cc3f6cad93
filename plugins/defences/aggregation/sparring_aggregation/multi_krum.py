"""Multi-Krum: the mean of the updates that lie closest to their neighbours."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.bounds import admit
from sparring_aggregation.declared import MultiKrumConfig
from sparring_aggregation.scores import nearest, nothing, others, picked


@final
class MultiKrum(Aggregator):
    r"""$\frac1m \sum_{i \in S} x_i$, S: the m rows of least score $s(i) = \sum_{i \to j} \lVert x_i - x_j \rVert^2$.

    $i \to j$: the n - f - 2 rows nearest to i; m = n - f unless set. m = 1 is Krum. Works from the cohort's distances over all
    columns, buffers too; mixed rows are never formed. Of tied rows clients of smaller id go first. Clients outside S are
    reported as excluded where rows still have ids. Weights are not respected: chosen rows count alike. n = 0: a zero release of
    total weight 0. Raises `ConfigError` unless 2f + 2 < n and m <= n - f.

    Source: Blanchard, El Mhamdi, Guerraoui and Stainer, "Machine learning with adversaries", NeurIPS 2017, 1703.02757.
    """

    def __init__(self, config: MultiKrumConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f + 2 < n and m <= n - f."""
        f, m = self.config.f, self.config.m
        admit("multi-krum", f, n, "2f + 2 < n", (n - 3) // 2)
        if m is not None and m > n - f:
            raise ConfigError(
                f"'multi-krum' with m = {m} and f = {f} got n = {n} updates; it needs m <= n - f: "
                f"set m to at most {n - f}, leave it out, or sample more clients"
            )

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The mean [d] of the m chosen rows; its total is m."""
        del ctx
        n, f = len(cohort), self.config.f
        if n == 0:
            return nothing(cohort)
        self.admit(n)
        m = n - f if self.config.m is None else self.config.m
        distances, by_id = others(cohort)
        ranked = nearest(distances, n - f - 2).argsort(stable=True)
        return picked(cohort, by_id[ranked[:m]])
