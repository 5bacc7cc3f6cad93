"""The mean around the median."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.bounds import admit
from sparring_aggregation.declared import MeamedConfig
from sparring_aggregation.order import statistic_of
from sparring_aggregation.scores import nothing
from sparring_aggregation.statistics import Nearest


@final
class Meamed(Aggregator):
    r"""Coordinate j is the mean of the n - f values among $x_{1,j} \dots x_{n,j}$ that lie closest to their median.

    These are a window of the ranked values. Of two values equally far from the median, of which one is left out, each counts
    half. Acts on all columns, buffers too. Weights are not respected: a row counts as one client. f = 0: the unweighted mean.
    n = 0: a zero release of total weight 0. Raises `ConfigError` unless 2f < n.

    Source: Xie, Koyejo and Gupta, "Generalized Byzantine-tolerant SGD", 2018, 1802.10116 ("mean around median").
    """

    def __init__(self, config: MeamedConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f < n."""
        admit("meamed", self.config.f, n, "2f < n", (n - 1) // 2)

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The mean around the median [d] of the rows; its total is n."""
        del ctx
        n = len(cohort)
        if n == 0:
            return nothing(cohort)
        self.admit(n)
        return Release(statistic_of(cohort, Nearest(n - self.config.f)), cohort.layout, float(n), n)
