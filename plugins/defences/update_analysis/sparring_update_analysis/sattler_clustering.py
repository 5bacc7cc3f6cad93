"""Clustered federated learning as a filter: the larger of two clusters stays."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_update_analysis.bipartition import halves, minority, remoteness
from sparring_update_analysis.configs import SattlerClusteringConfig
from sparring_update_analysis.judging import by_client, cosines, judged, lengths, parameters


@final
class SattlerClustering(Defence[Cohort]):
    r"""Bipartitions the clients by the cosines of their rows, and leaves the smaller cluster out.

    $$c_1, c_2 = \arg\min_{c_1 \cup c_2 = c} \max_{i \in c_1, k \in c_2} \alpha_{ik}, \quad
    \alpha_{ik} = \cos(\Delta_i, \Delta_k)$$

    The minimum is what single linkage joins last. The cut is made where $\sqrt{(1 - \alpha_{cross}^{max}) / 2} > \gamma$, with
    $\alpha_{cross}^{max}$ the largest cosine across it: at $\gamma = 0$ almost always, so that honest clients lose one of them
    too. One cut, not a recursion: who differs is left out, not served a model of its own. Of equal clusters both stay. Rows and
    weights stay as they are. Cosines are of the parameter columns; that of a zero row is 0. Suspicion is the mean of
    $1 - \alpha$ over the others that stay. n = 0: no rows; n = 1, 2: nobody is left out. Ties are broken by ids. Raises
    `NumericalError` for a row that is not finite.

    Source: Sattler, Mueller, Wiegand and Samek: On the Byzantine Robustness of Clustered Federated Learning, ICASSP 2020; the
    bipartition and its gap: Sattler, Mueller and Samek: Clustered Federated Learning, IEEE TNNLS 32(8), 2021, 1910.01991.
    """

    def __init__(self, config: SattlerClusteringConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The rows of the larger cluster."""
        if len(signal) == 0:
            return signal
        seen = parameters(signal)
        lengths(seen, ctx.layer)
        alpha = cosines(seen.inner)
        second = halves(1 - alpha, by_client(signal), "single")
        across = torch.where(second[:, None] & ~second[None, :], alpha, -1.0).max()
        parted = ((1 - across) / 2).sqrt() > self.config.gamma
        flagged = minority(second) & parted
        return judged(signal, ctx.layer, remoteness(1 - alpha, ~flagged), flagged)
