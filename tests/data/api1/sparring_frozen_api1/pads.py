"""A pair: clients seal rows with one-time pads, the server opens the weighted mean."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import numpy as np
import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.errors import ConfigError, EffectError, NumericalError, RoundAborted
from sparring.facts import Clipped
from sparring.hookspecs import hookimpl
from sparring.layout import Space
from sparring.roles import Defence
from sparring.signals import Release, Updates
from sparring_frozen_api1.plugin import PadsConfig

NAME = "frozen-pads"
BYTES = 6
MODULUS = 1 << (8 * BYTES)


@dataclass(frozen=True)
class Sum:
    """The sum of the pads of the clients ``ids``, and the type of their rows."""

    pads: Tensor
    ids: tuple[int, ...]
    dtype: torch.dtype


@final
class Seal(Defence[Updates]):
    """Row i becomes (trunc(w_i x_i 2^b), w_i) + r_i mod 2^48, r_i uniform (after So et al., MLSys 2022, 2109.14236)."""

    def __init__(self, config: PadsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The sealed rows [m, d + 1] of those whose message arrived."""
        assert isinstance(ctx, Round)
        n, d, scale = len(signal.ids), signal.layout.size + 1, 2.0**self.config.bits
        weights = torch.ones(n, dtype=torch.float64) if signal.weights is None else signal.weights.double()
        rows = signal.rows.double()
        if not bool(rows.isfinite().all()):
            raise NumericalError(f"'{NAME}': a row holds NaN or Inf, which no integer stands for")
        bounds = [f.bound for f in ctx.facts if isinstance(f, Clipped) and f.norm == "linf" and f.unit == "client"]
        largest = max([b for b in bounds if b is not None] + [float(rows.abs().max()) if n else 0.0])
        if float(weights.sum()) * max(largest * scale, 1) >= MODULUS / 2:
            raise ConfigError(f"'{NAME}': numbers up to {largest:g} at {self.config.bits} bits overflow; lower bits")
        plain = torch.cat([rows * weights[:, None] * scale, weights[:, None]], dim=1).trunc().long() % MODULUS
        pads = _uniform(ctx.secure(n * d * BYTES)).view(n, d)
        layout = signal.layout.extended([(f"{NAME}.weight", (1,))], Space("sealed", MODULUS))
        arrived = ctx.wire.up(NAME, dict.fromkeys(signal.ids, d * BYTES))
        if len(arrived) < self.config.threshold:
            raise RoundAborted(NAME, len(arrived), self.config.threshold)
        total = Updates(pads, layout, signal.ids).select(arrived).rows.sum(0) % MODULUS
        ctx.wire.post(NAME, Sum(total, arrived, signal.rows.dtype))
        ctx.wire.down(NAME, dict.fromkeys(arrived, 1))
        return Updates((plain + pads) % MODULUS, layout, signal.ids).select(arrived)


def _uniform(random: bytes) -> Tensor:
    digits = np.frombuffer(random, dtype=np.uint8).reshape(-1, BYTES).astype(np.int64)
    return torch.from_numpy(digits @ (1 << 8 * np.arange(BYTES, dtype=np.int64)))


@final
class Open(Defence[Release]):
    """The weighted mean from the sum of sealed rows less the sum of their pads."""

    def __init__(self, config: PadsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        """The mean in the layout from before sealing."""
        assert isinstance(ctx, Round)
        (part,) = ctx.wire.collect(NAME)
        assert isinstance(part, Sum)
        if signal.excluded or signal.clients != len(part.ids) or signal.layout.space.modulus != MODULUS:
            raise EffectError(f"'{NAME}' opens the sum of {len(part.ids)} sealed rows, not of {signal.clients}")
        whole = (signal.vector - part.pads) % MODULUS
        total = torch.where(whole >= MODULUS // 2, whole - MODULUS, whole).double()
        weight = float(total[-1])
        mean = total[:-1] / 2.0**self.config.bits / max(weight, 1.0)
        layout = replace(signal.layout, segments=signal.layout.segments[:-1], space=Space())
        return replace(signal, vector=mean.to(part.dtype), layout=layout, total=weight)
