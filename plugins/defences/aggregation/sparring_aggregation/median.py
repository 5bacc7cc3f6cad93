"""The coordinate-wise median."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.order import statistic_of, weighted_statistic_of
from sparring_aggregation.plugin import MedianConfig
from sparring_aggregation.scores import nothing
from sparring_aggregation.statistics import Middle
from sparring_aggregation.weights import middle


@final
class Median(Aggregator):
    r"""$\operatorname{med}_j = $ the middle value of $x_{1,j} \dots x_{n,j}$, for even n the mean of the two middle values.

    Each coordinate lies within the range of the honest rows while f < n/2 rows are Byzantine. Acts on all columns, buffers too.
    A row counts as one client; with ``weighted``, by its weight w (one where there are none): the mean of the lower weighted
    median, the first value up to which at least half of the weight lies, and of the upper one, the first up to which more than
    half lies. Equal weights give the plain median. It then bears Byzantine clients with less than half of the weight, and
    weights are what clients say. n = 1: that row. n = 0: a zero release of total weight 0.

    Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning", ICML 2018, 1803.01498.
    """

    def __init__(self, config: MedianConfig) -> None:
        self.config = config

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The median [d] of the rows; its total is n, or the sum of weights."""
        del ctx
        n = len(cohort)
        if n == 0:
            return nothing(cohort)
        if self.config.weighted and cohort.weights is not None:
            total = float(cohort.weights.double().sum())
            return Release(weighted_statistic_of(cohort, middle), cohort.layout, total, n)
        vector = statistic_of(cohort, Middle((n - 1) // 2, n // 2 + 1))
        return Release(vector, cohort.layout, float(n), n)
