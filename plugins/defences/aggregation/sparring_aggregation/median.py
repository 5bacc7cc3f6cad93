"""The coordinate-wise median."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.order import mean_of_ranks


@final
class Median(Aggregator):
    r"""$\operatorname{med}_j = $ the middle value of $x_{1,j} \dots x_{n,j}$, for even n the mean of the two middle values.

    Each coordinate lies within the range of the honest rows while f < n/2 rows are Byzantine. Acts on all columns, buffers too.
    Weights are not respected: a row counts as one client. n = 1: that row. n = 0: a zero release of total weight 0.

    Source: Yin, Chen, Ramchandran and Bartlett, "Byzantine-robust distributed learning", ICML 2018, 1803.01498.
    """

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The median [d] of the rows; its total is n."""
        del ctx
        n = len(cohort)
        rows = cohort.rows
        vector = mean_of_ranks(rows, (n - 1) // 2, n // 2 + 1) if n else rows.sum(0)
        return Release(vector, cohort.layout, float(n), n)
