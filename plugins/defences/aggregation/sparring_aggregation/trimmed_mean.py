"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from functools import partial
from typing import final

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.bounds import admit
from sparring_aggregation.order import statistic_of, weighted_statistic_of
from sparring_aggregation.plugin import TrimmedMeanConfig
from sparring_aggregation.scores import nothing
from sparring_aggregation.statistics import Middle
from sparring_aggregation.weights import trimmed


@final
class TrimmedMean(Aggregator):
    r"""$\operatorname{trmean}_j = \frac{1}{n-2f} \sum_{k=f+1}^{n-f} x_{(k),j}$, where $x_{(1),j} \le \dots \le x_{(n),j}$.

    Each coordinate lies within the range of the honest rows while at most f rows are Byzantine. f is given, or floor(beta n).
    Acts on all columns, buffers too. A row counts as one client, and f = 0 gives the unweighted mean. With ``weighted`` rows
    count by their weights (one where there are none): f / n of the weight is cut at each end, a value at the cut keeps the rest
    of its own, and f = 0 gives the weighted mean. Equal weights give the plain form. It then bears Byzantine clients with f / n
    of the weight, and weights are what clients say. n = 0: a zero release of total weight 0.

    Raises `ConfigError` unless 2f < n.

    Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning", ICML 2018, 1803.01498.
    """

    def __init__(self, config: TrimmedMeanConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f < n."""
        self.trimmed(n)

    def trimmed(self, n: int) -> int:
        """How many of ``n`` values are dropped at each end."""
        if self.config.beta is not None:
            return min(int(self.config.beta * n + 1e-9), max(0, (n - 1) // 2))
        admit("trimmed-mean", self.config.f, n, "2f < n", (n - 1) // 2, "use beta")
        return self.config.f

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The trimmed mean [d] of the rows; its total is n, or the sum of weights."""
        del ctx
        n = len(cohort)
        if n == 0:
            return nothing(cohort)
        f = self.trimmed(n)
        if self.config.weighted and cohort.weights is not None:
            total = float(cohort.weights.double().sum())
            return Release(weighted_statistic_of(cohort, partial(trimmed, cut=f / n)), cohort.layout, total, n)
        return Release(statistic_of(cohort, Middle(f, n - f)), cohort.layout, float(n), n)
