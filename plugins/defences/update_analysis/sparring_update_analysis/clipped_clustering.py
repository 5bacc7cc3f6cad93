"""ClippedClustering: clip to the historical median norm, and keep the larger of two clusters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Stateful
from sparring.signals import Cohort
from sparring_update_analysis.bipartition import halves, minority, remoteness
from sparring_update_analysis.configs import ClippedClusteringConfig
from sparring_update_analysis.judging import by_client, cosines, judged, lengths, parameters
from sparring_update_analysis.scaling import shortened


@final
class ClippedClustering(Defence[Cohort], Stateful):
    r"""Clips rows to $\tau$, clusters them by cosine distance with average linkage, and leaves the smaller of two clusters out.

    $$\Delta_i \leftarrow \Delta_i \min(1, \tau / \lVert \Delta_i \rVert)$$

    $\tau$: the median of the norms of all rows of all rounds so far, this one counted, at most ``largest``; norms alone are
    remembered, 8 bytes a row, and not whose they were. Clipping changes no cosine. Of equal clusters both stay; weights stay
    (the paper averages without weights). Cosines and norms are of the parameter columns, whole rows are scaled; the cosine of a
    zero row is 0. Suspicion is the mean cosine distance from the others that stay. n = 0: no rows, and nothing is remembered;
    n = 1, 2: nobody is left out. Ties are broken by ids. Raises `NumericalError` for a row that is not finite.

    Source: Li, Ngai and Voigt: An Experimental Study of Byzantine-Robust Aggregation Schemes in Federated Learning, IEEE
    Transactions on Big Data 10(6), 2024 (online 2023), 2302.07173.
    """

    def __init__(self, config: ClippedClusteringConfig) -> None:
        self.config = config
        self.norms = torch.zeros(0, dtype=torch.float64)

    def state(self) -> Mapping[str, Any]:
        """Every norm so far."""
        return {"norms": self.norms}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from the norms of ``state``."""
        self.norms = state["norms"]

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The clipped rows of the larger cluster."""
        if len(signal) == 0:
            return signal
        seen = parameters(signal)
        norms = lengths(seen, ctx.layer)
        self.norms = torch.cat([self.norms, norms.cpu()])
        tau = self.norms.quantile(0.5).clamp(max=self.config.largest).to(norms.device)
        distances = 1 - cosines(seen.inner)
        flagged = minority(halves(distances, by_client(signal), "average"))
        return judged(shortened(signal, norms, tau), ctx.layer, remoteness(distances, ~flagged), flagged)
