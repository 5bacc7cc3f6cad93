"""Norm bounding of clients' rows at the server."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_update_analysis.configs import NormBoundConfig
from sparring_update_analysis.judging import judged, lengths, parameters
from sparring_update_analysis.scaling import shortened


@final
class NormBound(Defence[Cohort]):
    r"""Scales each row $\Delta_i$ [d] to an L2 norm of at most M.

    $$\Delta_i \leftarrow \Delta_i \min(1, M / \lVert \Delta_i \rVert_2)$$

    M: ``bound``, or ``factor`` times the median norm of the cohort (of an even number the mean of the middle two). Norms are of
    the parameter columns; whole rows are scaled, buffers with them, lazily. Rows within M and zero rows stay as they are.
    Suspicion is the norm; nobody is flagged or left out. The small noise that Sun et al. add is not part of it. n = 0: no rows;
    n = 1: the median is its own norm. Raises `NumericalError` for a row that is not finite.

    Source: Sun, Kairouz, Suresh and McMahan: Can You Really Backdoor Federated Learning?, 2019, 1911.07963.
    """

    def __init__(self, config: NormBoundConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The bounded cohort [n, d]."""
        if len(signal) == 0:
            return signal
        norms = lengths(parameters(signal), ctx.layer)
        bound = self.config.bound
        M = torch.as_tensor(self.config.factor * norms.quantile(0.5) if bound is None else bound)
        seen = judged(signal, ctx.layer, norms, torch.zeros_like(norms, dtype=torch.bool))
        return shortened(seen, norms, M)
