"""The coordinate-wise trimmed mean."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.order import mean_of_ranks
from sparring_aggregation.plugin import TrimmedMeanConfig


@final
class TrimmedMean(Aggregator):
    r"""$\operatorname{trmean}_j = \frac{1}{n-2f} \sum_{k=f+1}^{n-f} x_{(k),j}$, where $x_{(1),j} \le \dots \le x_{(n),j}$.

    Each coordinate lies within the range of the honest rows while at most f rows are Byzantine. f is given, or floor(beta n).
    Acts on all columns, buffers too. Weights are not respected: a row counts as one client. f = 0: the unweighted mean.
    n = 0: a zero release of total weight 0. Raises `ConfigError` unless 2f < n.

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
        f = self.config.f
        if 2 * f >= n:
            raise ConfigError(
                f"'trimmed-mean' with f = {f} got n = {n} updates; it needs 2f < n: "
                f"set f to at most {(n - 1) // 2}, use beta, or sample more clients"
            )
        return f

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The trimmed mean [d] of the rows; its total is n."""
        del ctx
        n = len(cohort)
        rows = cohort.rows
        if n == 0:
            return Release(rows.sum(0), cohort.layout, 0.0, 0)
        f = self.trimmed(n)
        return Release(mean_of_ranks(rows, f, n - f), cohort.layout, float(n), n)
