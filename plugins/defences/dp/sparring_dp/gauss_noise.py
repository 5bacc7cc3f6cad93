"""The Gaussian mechanism on each client's own update."""

from __future__ import annotations

from typing import final

import torch

from sparring.claims import GaussianEvent
from sparring.context import Context, Round
from sparring.errors import CompositionError, ConfigError
from sparring.facts import Clipped
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Updates
from sparring_dp.plugin import GaussNoiseConfig


@final
class GaussNoise(Defence[Updates]):
    r"""Adds noise to each client's clipped update, on the client: $\Delta_i \leftarrow \Delta_i + \mathcal N(0, (zC)^2 I_p)$.

    z is the noise multiplier, C the bound of the `Clipped` fact that holds here. This is *local* noise: each sender's row is a
    release of its own, so each emits one event of multiplier z at rate 1, per client, and the aggregate is n times as noisy as
    central noise of the same z.

    What the event says: neighbours differ in one client's update being there or being zero (zero-out, counted as add-remove),
    of sensitivity C; that the client took part, and its weight, stay public. Between two arbitrary updates of the client
    (replace-one) the sensitivity is 2C: read the epsilon of multiplier z/2 for that. The theorem is about real numbers;
    floating-point noise from a seeded generator simulates it.

    Raises `ConfigError` where the bound has no number, and `CompositionError` where rows hold buffers or extras: they would
    travel without noise. Source: Dwork and Roth, The Algorithmic Foundations of Differential Privacy, 2014, appendix A; Balle
    and Wang, ICML 2018, 1805.06530, for the exact epsilon.
    """

    def __init__(self, config: GaussNoiseConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The updates with noise on their parameter columns; the noise of client i comes from its own stream."""
        assert isinstance(ctx, Round)
        layer = ctx.layer or "gauss-noise"
        z, C = self.config.noise_multiplier, _bound(ctx, layer)
        bare = [s.name for s in signal.layout.segments if s.role in ("buffer", "extra")]
        if bare:
            raise CompositionError(
                f"'{layer}' adds noise to parameters only, but the row also holds {', '.join(bare[:3])}; a formal claim needs "
                "every number that is sent to be noised: use a model without buffers, or keep them local"
            )
        params = signal.params
        if not signal.ids:
            return signal
        noise = torch.stack([torch.randn(params.shape[1], generator=ctx.generator(i), dtype=params.dtype) for i in signal.ids])
        ctx.emit(GaussianEvent(z, unit="client", rate=1.0, steps=1), signal.ids)
        return signal.with_params(params + z * C * noise.to(params.device))


def _bound(ctx: Context, layer: str) -> float:
    bounds = [fact.bound for fact in ctx.facts if isinstance(fact, Clipped) and fact.meets(Clipped("l2", "client"))]
    known = [bound for bound in bounds if bound is not None]
    if not known:
        raise ConfigError(
            f"'{layer}' scales its noise by the clipping bound, and none is known here; put 'norm-clip' before it"
        )
    return min(known)
