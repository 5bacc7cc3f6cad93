"""The masked sum: clients seal their rows with one-time pads, the server opens the sum."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.errors import ConfigError, EffectError, NumericalError, RoundAborted
from sparring.hookspecs import hookimpl
from sparring.layout import Layout, Space
from sparring.roles import Defence
from sparring.signals import Release, Updates
from sparring_secagg.fixed_point import centred, encode, uniform
from sparring_secagg.plugin import MaskedSumConfig

NAME = "masked-sum"
WEIGHT = f"{NAME}.weight"


@dataclass(frozen=True)
class Correction:
    """What the dealer will name once: the sum of the pads [d + 1] of the clients ``ids`` whose rows arrived.

    ``unit``: the weight that the encoded weight 1 stands for. ``dtype``: of the rows before sealing.
    """

    pads: Tensor
    ids: tuple[int, ...]
    unit: float
    dtype: torch.dtype


@final
class Seal(Defence[Updates]):
    r"""The clients' half: row i becomes $y_i = (\mathrm{enc}(w_i x_i, w_i) + r_i) \bmod M$.

    $x_i$: the whole row [d], clipped to [-bound, bound]; $w_i$: its weight over ``max_weight``, on the grid $2^{-f}$, in the
    last column; enc: fixed point with f fraction bits; $r_i$: a fresh pad from ``ctx.secure``, uniform in $\mathbb Z_M^{d+1}$,
    so that $y_i$ is uniform and independent of $x_i$. Out come int64 rows [m, d + 1] of the m clients whose message arrived, no
    weights, and a sealed layout.

    Edge cases: rows of weight 0 count for nothing; no row arrives: `RoundAborted`. Raises `ConfigError` where the cohort could
    overflow or a weight exceeds ``max_weight``, and `NumericalError` for a row that is not finite. Source: after Bonawitz et
    al., Practical Secure Aggregation, CCS 2017; the dealer stands in for their key agreement and secret sharing.
    """

    def __init__(self, config: MaskedSumConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        """The sealed rows of the clients whose message arrived."""
        assert isinstance(ctx, Round)
        c, d = self.config, signal.layout.size + 1
        self._fits(max(len(signal.ids), len(ctx.cohort)))
        unit, weights = self._weights(signal)
        plain = self._encoded(signal, weights, ctx)
        pads = uniform(len(signal.ids) * d, c.modulus, ctx.secure).view(len(signal.ids), d).to(plain.device)
        size = -(-d * c.bits // 8)
        ctx.wire.down(f"{NAME}/pads", dict.fromkeys(signal.ids, size))
        arrived = ctx.wire.up(f"{NAME}/rows", dict.fromkeys(signal.ids, size))
        if not arrived:
            raise RoundAborted(NAME, 0, c.threshold)
        layout = signal.layout.extended([(WEIGHT, (1,))], Space("sealed", c.modulus))
        sealed = Updates((plain + pads) % c.modulus, layout, signal.ids).select(arrived)
        kept = Updates(pads, layout, signal.ids).select(arrived).rows.sum(0) % c.modulus
        ctx.wire.post(NAME, Correction(kept, arrived, unit, signal.rows.dtype))
        return sealed

    def _fits(self, clients: int) -> None:
        c = self.config
        if clients > c.capacity:
            raise ConfigError(
                f"'{NAME}': {clients} rows of numbers up to {c.bound:g} at {c.fraction_bits} fraction bits can exceed "
                f"2^{c.bits - 1}; {c.capacity} are safe: lower bound or fraction_bits, or raise bits"
            )

    def _weights(self, signal: Updates) -> tuple[float, Tensor]:
        """The weight that 1 stands for, and the weights [n] over it, rounded to the grid."""
        c = self.config
        if signal.weights is None:
            return 1.0, torch.ones(len(signal.ids), dtype=torch.float64)
        weights = signal.weights.double().cpu()
        wrong = [(client, w) for client, w in zip(signal.ids, weights.tolist(), strict=True) if not 0 <= w <= c.max_weight]
        if wrong:
            client, w = wrong[0]
            raise ConfigError(
                f"'{NAME}': client {client} has weight {w:g}; it must lie in [0, {c.max_weight:g}]: raise max_weight"
            )
        grid = 2.0**c.fraction_bits
        return c.max_weight, (weights / c.max_weight * grid).round() / grid

    def _encoded(self, signal: Updates, weights: Tensor, ctx: Round) -> Tensor:
        """The rows as integers [n, d + 1], before masking."""
        c = self.config
        out = torch.zeros(len(signal.ids), signal.layout.size + 1, dtype=torch.long, device=signal.rows.device)
        for k, (client, w) in enumerate(zip(signal.ids, weights.tolist(), strict=True)):
            row = signal.rows[k].double()
            if not bool(row.isfinite().all()):
                raise NumericalError(f"'{NAME}': the update of client {client} holds NaN or Inf, which no integer encodes")
            values = row.clamp(-c.bound, c.bound) * w
            out[k, :-1] = encode(values, c.fraction_bits, c.rounding, ctx.generator(client))
            out[k, -1] = round(w * 2**c.fraction_bits)
        return out


@final
class Open(Defence[Release]):
    r"""The server's half: $\sum_i w_i x_i / \sum_i w_i$ from $(\sum_i y_i - \sum_i r_i) \bmod M$ over the rows that arrived.

    The dealer names the sum of pads once a round, and only of at least ``threshold`` rows: fewer raise `RoundAborted`. All
    weights 0: a zero release of total 0. Raises `EffectError` where the aggregate is not the sum of exactly the rows that
    arrived.
    """

    def __init__(self, config: MaskedSumConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        """The weighted mean, in reals, with the layout that the rows had before sealing."""
        assert isinstance(ctx, Round)
        c = self.config
        parts = [part for part in ctx.wire.collect(NAME) if isinstance(part, Correction)]
        had = sum(len(part.ids) for part in parts)
        if had < c.threshold:
            raise RoundAborted(NAME, had, c.threshold)
        if signal.clients != had or signal.excluded or signal.layout.space != Space("sealed", c.modulus):
            raise EffectError(
                f"'{NAME}' opens the sum of the {had} rows that arrived, but was given one of {signal.clients} "
                f"({len(signal.excluded)} excluded) in {signal.layout.space}; between its halves rows are added, nothing else"
            )
        if len({(part.unit, part.dtype) for part in parts}) != 1 or had > c.capacity:
            raise EffectError(f"'{NAME}': the parts of one round were sealed with different settings, or are too many ({had})")
        pads = torch.stack([part.pads for part in parts]).sum(0)
        total = centred((signal.vector - pads) % c.modulus, c.modulus).double()
        weight = float(total[-1])
        mean = total[:-1] / weight if weight > 0 else torch.zeros_like(total[:-1])
        real = weight / 2**c.fraction_bits * parts[0].unit
        return replace(signal, vector=mean.to(parts[0].dtype), layout=_opened(signal.layout), total=real)


def _opened(layout: Layout) -> Layout:
    last = layout.segments[-1]
    if last.name != WEIGHT:
        raise EffectError(
            f"'{NAME}': the last segment is '{last.name}' where the weight was; layers inside must not add columns"
        )
    return replace(layout, segments=layout.segments[:-1], space=Space("real"))


__all__ = ["Correction", "Open", "Seal"]
