"""Static clipping of clients' rows at the server."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Cohort
from sparring_aggregation.plugin_pre import StaticClipConfig
from sparring_aggregation.rescale import clip


@final
class StaticClip(Defence[Cohort]):
    r"""Scales each row to L2 norm at most C.

    $$x_i \leftarrow x_i \min(1, C / \lVert x_i \rVert_2)$$

    The server's clipping bounds every client, one that lies about its own clipping too. The norm is over all columns, buffers
    too, and all are scaled. Scales lazily: no row is copied. Rows within the bound, and zero rows, stay as they are; clipped
    ones are scaled a few ulps below C, so that rounding does not carry them over it. Ids and weights stay. n = 0: no rows.
    Raises `NumericalError` for a row that is not finite. Source: Sun, Kairouz, Suresh and McMahan: Can You Really Backdoor
    Federated Learning?, 2019, 1911.07963 (norm thresholding).
    """

    def __init__(self, config: StaticClipConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The clipped cohort [n, d]."""
        C = self.config.bound
        return clip(signal, ctx.layer or "static-clip", C, C * (1 - 4 * torch.finfo(signal.base.dtype).eps))
