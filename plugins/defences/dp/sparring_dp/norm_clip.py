"""Norm clipping of clients' updates."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context
from sparring.errors import NumericalError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Updates
from sparring_dp.plugin import NormClipConfig


@final
class NormClip(Defence[Updates]):
    r"""Scales each row's parameter columns to L2 norm at most C.

    $$\Delta_i \leftarrow \Delta_i \min(1, C / \lVert \Delta_i \rVert_2)$$

    Rows ``[n, p]`` within the bound, and zero rows, stay as they are, bit for bit; clipped ones are scaled a few ulps below C,
    so that rounding does not carry them over it. Buffers and extras are not clipped. Raises `NumericalError` for a row that is
    not finite. Source: McMahan, Ramage, Talwar, Zhang: Learning Differentially Private Recurrent Language Models, ICLR 2018,
    1710.06963.
    """

    def __init__(self, config: NormClipConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The updates with clipped parameter columns."""
        params, C = signal.params, self.config.bound
        norms = torch.linalg.vector_norm(params, dim=1, dtype=torch.float64)
        bad = [client for client, fine in zip(signal.ids, norms.isfinite().tolist(), strict=True) if not fine]
        if bad:
            raise NumericalError(
                f"'{ctx.layer or 'norm-clip'}': the update of client {bad[0]} holds NaN or Inf (of {len(bad)} such clients); "
                "an update must be finite to be clipped: lower the learning rate"
            )
        below = C * (1 - 4 * torch.finfo(params.dtype).eps)
        factor = torch.where(norms > C, below / norms.clamp(min=C), 1.0)
        return signal.with_params(params * factor.to(params.dtype)[:, None])
