"""MoNNA: the mean of what lies near a trusted update."""

from __future__ import annotations

from typing import final

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.plugin_selection import MonnaConfig
from sparring_aggregation.selection import admit_minority, by_client, mean_of, nearest, nobody


@final
class MoNNA(Aggregator):
    r"""The mean of the n - f rows nearest to a trusted row $x_p$, itself among them.

    $$R = \frac{1}{n-f} \sum_{j \in N_p} x_j$$

    In the paper every client averages around its own update, which it trusts. A server has none, so that the pivot must be
    named: the row of the client ``trusted``. If that client is honest, and S is any set of n - f honest rows with $x_p$,
    $\lVert R - \bar x_S \rVert \le \frac{2f}{n-f} \max_{j \in S} \lVert x_j - x_p \rVert$; if it lies, it moves the release
    anywhere. Of tied rows those of smallest client ids are averaged; weights are not respected. n = 0: a zero release of total
    weight 0. Raises `ConfigError` unless 2f < n, and where the trusted client is not in the cohort: it was not sampled,
    dropped out, or a layer mixed the rows.

    Source: Farhadkhani, Guerraoui, Gupta, Hoang, Pinot and Stephan: Robust Collaborative Learning with Linear Gradient
    Overhead, ICML 2023, 2209.10931.
    """

    def __init__(self, config: MonnaConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` unless 2f < n."""
        admit_minority("monna", self.config.f, n)

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The mean [d]; its total is n - f."""
        del ctx
        n, f, trusted = len(cohort), self.config.f, self.config.trusted
        if n == 0:
            return nobody(cohort)
        self.admit(n)
        if cohort.ids is None or trusted not in cohort.ids:
            raise ConfigError(
                f"'monna' trusts client {trusted}, whose row is not among the {n} of this round; it must be in every cohort: "
                "leave federation.cohort out, so that all clients take part, or name a client that does"
            )
        p = cohort.ids.index(trusted)
        distances = cohort.distances[p].clone()
        distances[p] = -1
        return mean_of(cohort, nearest(distances[None], by_client(cohort), n - f)[0])
