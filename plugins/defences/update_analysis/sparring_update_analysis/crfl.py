"""CRFL: the global model clipped and noised in each round, so that its smoothed predictions can be certified."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context, Round
from sparring.errors import CompositionError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Release
from sparring_update_analysis.configs_models import CRFLConfig


@final
class CRFL(Defence[Release]):
    r"""Changes the release so that the new model is clipped, and noised in every round but the last.

    $$w_t \leftarrow \tilde w_{t-1} + \Delta_t, \quad
      \mathrm{Clip}_{\rho_t}(w_t) = w_t / \max(1, \lVert w_t\rVert_2 / \rho_t), \quad
      \tilde w_t = \mathrm{Clip}_{\rho_t}(w_t) + \mathcal N(0, \sigma^2 I_p), \quad t = 1 .. T$$

    w and the noise are the parameters [p]; rho_t = bound + growth t. The noise of round T is drawn anew for each copy that
    votes at test time: `certificate.smoothed_votes`, `certificate.certify`. What is returned is the model to be less the state
    that the round started from, so it becomes that model only where the trainer adds the release as it is: with a server's
    learning rate of 1 and without momentum. The context shows neither, so that another setting is not refused here.

    Norms are in float64. Raises `CompositionError` for a release with buffers or extras: they would reach the model unclipped
    and without noise, and no certificate would cover them.

    Source: Xie, Chen, Chen and Li: CRFL: Certifiably Robust Federated Learning against Backdoor Attacks, ICML 2021, 2106.08283.
    """

    def __init__(self, config: CRFLConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        """The release [d] after which the model is within rho_t, plus noise."""
        assert isinstance(ctx, Round)
        assert ctx.parameters is not None
        bare = [s.name for s in signal.layout.segments if s.role in ("buffer", "extra")]
        if bare:
            raise CompositionError(
                f"'{ctx.layer}' clips and noises parameters only, but the release also holds {', '.join(bare[:3])}; its "
                "certificate needs all of the model to be noised: use a model without buffers, or keep them local"
            )
        t, params = ctx.index + 1, signal.params
        start = ctx.parameters[: len(params)].double()
        w = start + params.double()
        w = w / (torch.linalg.vector_norm(w) / self.config.rho(t)).clamp(min=1)
        if t < ctx.rounds:
            w = w + self.config.noise * torch.randn(params.shape, generator=ctx.generator(), dtype=w.dtype).to(w.device)
        return signal.with_params((w - start).to(params.dtype))
