"""Curious abandon honesty: trap weights, by which a neuron fires for few inputs and gives these up."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.layout import Layout, Segment
from sparring.roles import ActiveAttack, PassiveAttack
from sparring.signals import Broadcast
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView
from sparring_active_inversion.planting import planted
from sparring_active_inversion.plugin import CuriousAbandonHonestyConfig
from sparring_active_inversion.reading import ROUNDING, plausible, read_all

NAME = "trap"
FIRES = 2.4
"""(1 - gamma) sqrt(D) by which a neuron fires for a tenth of inputs whose D pixels are independent and uniform on [0, 1]."""
SMALLEST = 0.05
SAME = 1e-2
"""The largest distance of a value, in [0, 1], between two readings of one input."""


@final
class SetTraps(ActiveAttack[Broadcast]):
    r"""Sends trap weights in a first fully connected layer.

    A random half N of each row's D weights is negative, the other half P positive and smaller, drawn from one distribution:
    $w_N = -|z|,\ w_P = \gamma |z'|,\ z, z' \sim \mathcal N(0, 1/D)$, bias 0. With $\gamma < 1$ (``factor``) the sum is below 0
    for most inputs, and a neuron behind a ReLU fires for few, often for one. ``layer: prepended`` sets k = ``neurons`` traps
    before the model and adds a random map of what fires to the input; ``own`` overwrites the model's own first linear layer.
    The more inputs D a neuron sums, the nearer to 1 must gamma be, as the sum's mean falls with D and its deviation grows with
    its root: the default is $1 - 2.4 / \sqrt D$, .7 for 8x8 pixels and .957 for 3x32x32, where the paper has .95.

    Source: Boenisch, Dziedzic, Schuster, Shahin Shamsabadi, Shumailov, Papernot, EuroS&P 2023, 2112.02918. Raises
    `ConfigError` under ``own`` where the model does not begin with a linear layer on the flattened input.
    """

    def __init__(self, config: CuriousAbandonHonestyConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Broadcast, ctx: Context) -> Broadcast:
        """The broadcast with traps, in the rounds of the attack."""
        if not isinstance(ctx, Round) or ctx.index not in self.config.rounds:
            return signal
        D = prod(signal.plan.shape.inputs)
        generator = ctx.generator()
        if self.config.layer == "own":
            weight, bias = _own(signal.layout, D)
            return _overwritten(signal, weight, bias, self._traps(weight.shape[0], D, generator))
        k = self.config.neurons
        out = torch.randn(D, k, generator=generator) / k
        layer = {"weight": self._traps(k, D, generator), "bias": torch.zeros(k), "map": out}
        return planted(signal, NAME, {part: t.to(signal.row) for part, t in layer.items()})

    def _traps(self, k: int, D: int, generator: torch.Generator) -> Tensor:
        """W [k, D]."""
        z = torch.randn(k, D, generator=generator).abs() / D**0.5
        negative = torch.rand(k, D, generator=generator).argsort(1) < D // 2
        gamma = max(SMALLEST, 1 - FIRES / D**0.5) if self.config.factor is None else self.config.factor
        return torch.where(negative, -z, gamma * z)


@final
class SpringTraps(PassiveAttack[UpdateView | AggregateView]):
    r"""Reads the traps: $x = \partial_{W_j} L / \partial_{b_j} L$ for every neuron j, exact where it fired for one input.

    A neuron that fired for several gives their sum weighted by their gradients; the weights are different for each neuron, so
    that only single inputs come out of several neurons alike. Candidates outside [0, 1] are left out; the others are
    grouped where no value differs by more than 1e-2, and groups ranked by how many neurons they hold, then by the size of the
    gradient: no truth is read. What comes out of one neuron only may be a mixture, and fills up where inputs are missing.
    A capture of another model: grey, with a note.

    Source: Boenisch et al., EuroS&P 2023, 2112.02918.
    """

    def __init__(self, config: CuriousAbandonHonestyConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        """Reconstructions from each capture."""
        del ctx
        return read_all(view, self._read)

    def _read(self, capture: Capture) -> Tensor | None:
        segments = {s.name: s for s in capture.layout.segments}
        if self.config.layer == "own":
            weight, bias = _own(capture.layout, prod(capture.plan.shape.inputs))
        elif f"{NAME}_weight" in segments:
            weight, bias = segments[f"{NAME}_weight"], segments[f"{NAME}_bias"]
        else:
            return None
        row = capture.row.double()
        dW, db = (row[s.start : s.stop].view(s.shape) for s in (weight, bias))
        x = dW / db[:, None]
        good = plausible(x) & (db.abs() > ROUNDING * db.abs().max())
        return _ranked(x[good], db[good].abs(), capture.examples)


def _ranked(x: Tensor, size: Tensor, most: int) -> Tensor:
    """At most ``most`` of the candidates [m, D], one a group: those that most others repeat first."""
    alike = torch.cdist(x, x, p=torch.inf) <= SAME
    free = torch.ones(len(x), dtype=torch.bool, device=x.device)
    chosen = []
    largest = size / size.max().clamp_min(torch.finfo(size.dtype).tiny) if len(x) else size
    for _ in range(min(most, len(x))):
        repeats = ((alike & free).sum(1) + 0.5 * largest).masked_fill(~free, -1)
        best = repeats.argmax()
        chosen.append(best)
        free = free & ~alike[best]
    return x[torch.stack(chosen)[: int(most)]] if chosen else x


def _own(layout: Layout, D: int) -> tuple[Segment, Segment]:
    """Weight [k, D] and bias [k] of a first linear layer on the flattened input."""
    first = [s for s in layout.segments if s.role == "parameter"][:2]
    if len(first) == 2:
        weight, bias = first
        if weight.shape == (bias.shape[0], D) and len(bias.shape) == 1:
            return weight, bias
    raise ConfigError(
        f"layer: own overwrites a first linear layer of {D} inputs with a bias, and this model does not begin with one; "
        "set layer: prepended"
    )


def _overwritten(signal: Broadcast, weight: Segment, bias: Segment, traps: Tensor) -> Broadcast:
    row = signal.row.clone()
    row[weight.start : weight.stop] = traps.reshape(-1).to(row)
    row[bias.start : bias.stop] = 0
    others = {client: _overwritten(own, weight, bias, traps) for client, own in signal.overrides.items()}
    return replace(signal, row=row, overrides=others)
