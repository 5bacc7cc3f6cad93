"""Layers on clients' updates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from sparring.claims import GaussianEvent
from sparring.context import Context, Round
from sparring.errors import ConfigError
from sparring.facts import Clipped
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Stateful
from sparring.signals import Updates
from sparring_frozen_api1.plugin import ClipConfig, NoiseConfig, RoundConfig


@final
class Rounding(Defence[Updates], Stateful):
    """q(x + e) for a client's update x and what rounding kept back before, e (Karimireddy et al., ICML 2019, 1901.09847)."""

    def __init__(self, config: RoundConfig) -> None:
        self.config = config
        self.kept: dict[str, Tensor] = {}

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The updates on the grid."""
        del ctx
        step, rows = self.config.step, []
        for client, row in zip(signal.ids, signal.params, strict=True):
            whole = row + self.kept[str(client)].to(row) if str(client) in self.kept else row
            on_grid = (whole / step).round() if self.config.rounding == "nearest" else (whole / step).trunc()
            rows.append(on_grid * step)
            self.kept[str(client)] = whole - rows[-1]
        return signal.with_params(torch.stack(rows)) if rows else signal

    def state(self) -> Mapping[str, Any]:
        """What was kept back, by client."""
        return {"kept": dict(self.kept)}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""
        self.kept = dict(state["kept"])


@final
class Clip(Defence[Updates]):
    """x min(1, C / |x|) (Abadi et al., CCS 2016, 1607.00133; per client: McMahan et al., ICLR 2018, 1710.06963)."""

    def __init__(self, config: ClipConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The updates within the ball; norms are taken in float64."""
        del ctx
        norms = torch.linalg.vector_norm(signal.params.double(), dim=1, keepdim=True)
        factor = torch.where(norms > self.config.bound, self.config.bound * (1 - 1e-6) / norms, 1.0)
        return signal.with_params((signal.params.double() * factor).to(signal.rows.dtype))


@final
class Noise(Defence[Updates]):
    """x + N(0, (sigma C)^2 I), C the bound that holds (Dwork and Roth 2014, appendix A)."""

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The noisy updates; each client's event is charged to it."""
        assert isinstance(ctx, Round)
        bounds = [f.bound for f in ctx.facts if isinstance(f, Clipped) and (f.norm, f.unit) == ("l2", "client")]
        C = next((bound for bound in bounds if bound is not None), None)
        if C is None:
            raise ConfigError(f"'{ctx.layer}' stands behind no L2 bound per client; put frozen-clip before it")
        if not signal.ids:
            return signal
        p = signal.params.shape[1]
        noise = torch.stack([torch.randn(p, generator=ctx.generator(client)) for client in signal.ids])
        ctx.emit(GaussianEvent(self.config.sigma, unit="client"), signal.ids)
        return signal.with_params(signal.params + self.config.sigma * C * noise.to(signal.rows))
