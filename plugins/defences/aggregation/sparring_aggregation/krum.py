"""Krum: the update that lies closest to its neighbours."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.plugin import KrumConfig


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
        f = self.config.f
        if 2 * f + 2 >= n:
            fits = f"set f to at most {(n - 3) // 2}" if n >= 3 else "choose another rule"
            raise ConfigError(f"'krum' with f = {f} got n = {n} updates; it needs 2f + 2 < n: {fits}, or sample more clients")

    def scores(self, distances: Tensor) -> Tensor:
        """Sum of the n - f - 2 smallest entries of each row of ``distances`` [n, n] beside the diagonal: [n]."""
        n, f = len(distances), self.config.f
        self.admit(n)
        symmetric = (distances + distances.T) / 2
        others = symmetric.fill_diagonal_(torch.inf).sort(dim=1).values
        return others[:, : n - f - 2].sum(dim=1)

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The chosen row [d]; its total is 1."""
        del ctx
        n = len(cohort)
        if n == 0:
            return Release(cohort.rows.sum(0), cohort.layout, 0.0, 0)
        scores = self.scores(cohort.distances)
        ids = range(n) if cohort.ids is None else cohort.ids
        tied = (scores == scores.min()) | scores.isnan()
        chosen = min((int(i) for i in tied.nonzero()), key=lambda i: ids[i])
        coefficients = torch.zeros(n, dtype=torch.float64, device=cohort.base.device)
        coefficients[chosen] = 1
        excluded = () if cohort.ids is None else tuple(i for i in cohort.ids if i != cohort.ids[chosen])
        behind = 1 if cohort.mix is None else int((cohort.mix[chosen] != 0).sum())
        return Release(cohort.combine(coefficients), cohort.layout, 1.0, behind, excluded)
