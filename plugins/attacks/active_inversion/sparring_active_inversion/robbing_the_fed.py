"""Robbing the fed: an imprint layer whose bins hold single inputs."""

from __future__ import annotations

from math import prod, sqrt
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack, PassiveAttack
from sparring.signals import Broadcast, Examples
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView
from sparring_active_inversion.planting import planted
from sparring_active_inversion.plugin import RobbingTheFedConfig
from sparring_active_inversion.reading import ROUNDING, plausible, read_all

NAME = "imprint"
BELOW = -1.0
"""The first threshold: below the brightness of every input in [0, 1]."""


@final
class Imprint(ActiveAttack[Broadcast]):
    r"""Sends the model with an imprint layer before it.

    $x \mapsto x + \frac{v}{k s} \sum_{j=1}^k [s (h(x) - c_j)]_+$ with the measurement $h(x) = \frac1D \sum_p x_p$, brightness,
    thresholds $c_1 < \dots < c_k$ at quantiles 0, 1/k, ... (k-1)/k of h, a direction v ~ N(0, I) and s = ``scale``. Each bin
    $(c_j, c_{j+1}]$ holds an input with probability 1/k. The layer adds to the input, so that the honest model behind it
    still runs, and its own gradients, once core has cut the layer off, are those at a slightly shifted input.

    The function does not depend on s, its gradients have the size 1/s and its parameters s: small s keeps what float32 rounds
    away below the gradient, but a client's own steps then move the thresholds.

    Source: Fowl, Geiping, Czaja, Goldblum, Goldstein, ICLR 2022, 2110.13057. Their second layer maps the k activations back to
    the shape of the input, with equal columns as here; that it adds to the input is ours. Raises `ConfigError` where public
    quantiles are asked for without public data.
    """

    def __init__(self, config: RobbingTheFedConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Broadcast, ctx: Context) -> Broadcast:
        """The broadcast with an imprint layer, in the rounds of the attack."""
        if not isinstance(ctx, Round) or ctx.index not in self.config.rounds:
            return signal
        k, s, D = self.config.bins, self.config.scale, prod(signal.plan.shape.inputs)
        v = torch.randn(D, generator=ctx.generator(), dtype=torch.float64)
        layer = {"weight": torch.full((k, D), s / D), "bias": -s * self._thresholds(ctx.public), "map": v / (k * s)}
        return planted(signal, NAME, {part: t.to(signal.row) for part, t in layer.items()})

    def _thresholds(self, public: Examples | None) -> Tensor:
        """c [k], ascending."""
        k = self.config.bins
        at = torch.arange(1, k, dtype=torch.float64) / k
        if self.config.quantiles == "prior":
            c = self.config.mean + self.config.deviation * sqrt(2) * torch.erfinv(2 * at - 1)
        elif public is None or not len(public):
            raise ConfigError("quantiles: public, but the data set offers no public data; set quantiles: prior")
        else:
            c = torch.quantile(public.x.flatten(1).double().mean(1).cpu(), at)
        return torch.cat([c[:1].clamp(max=0) + BELOW, c])


@final
class ReadImprint(PassiveAttack[UpdateView | AggregateView]):
    r"""Reads the imprint: $x = (\partial_{W_j} L - \partial_{W_{j+1}} L) / (\partial_{b_j} L - \partial_{b_{j+1}} L)$.

    An input sends every neuron up to its bin the same gradient, so that differences of neighbours hold the inputs of one bin:
    a single one exactly, which is the case for $((k-1)/k)^{B-1}$ of B inputs, and a weighted mean of several. The scale of the
    row, and of each client's part in an aggregate, cancels. A difference counts as a reconstruction if its brightness lies in
    its bin, up to a bin's width, and its values in [0, 1]: noise does not. B = 0: nothing; a capture of a model without the
    imprint: grey, with a note.

    Source: Fowl et al., ICLR 2022, 2110.13057.
    """

    def __init__(self, config: RobbingTheFedConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        """Reconstructions from each planted capture."""
        del ctx
        return read_all(view, _read)


def _read(capture: Capture) -> Tensor | None:
    sent = capture.layout.split(capture.parameters.double(), "parameter")
    slopes = capture.layout.split(capture.row.double(), "parameter")
    if f"{NAME}_weight" not in sent:
        return None
    h, c = sent[f"{NAME}_weight"][0], -sent[f"{NAME}_bias"]
    dW, db = (_differences(slopes[f"{NAME}_{part}"]) for part in ("weight", "bias"))
    x = dW / db[:, None]
    width = (c[1:] - c[:-1])[1:]
    width = torch.cat([width[:1], width, width[-1:]]) if len(width) else c.new_zeros(len(c))
    above = torch.cat([c[1:], c.new_full((1,), torch.inf)])
    inside = (x @ h >= c - width) & (x @ h <= above + width)
    good = inside & plausible(x) & (db.abs() > ROUNDING * slopes[f"{NAME}_bias"].abs().max())
    order = db.abs().masked_fill(~good, -1).argsort(descending=True, stable=True)
    return x[order[: int(good.sum())]]


def _differences(slopes: Tensor) -> Tensor:
    """Each neuron's gradient less the next one's; the last one's own."""
    return torch.cat([slopes[:-1] - slopes[1:], slopes[-1:]])
