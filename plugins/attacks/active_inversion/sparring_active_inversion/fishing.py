"""Fishing: a last layer by which one class alone has a gradient behind it."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import final

import torch
from sparring_inversion.inverting_gradients import InvertingGradients
from sparring_inversion.matching import scale_of
from sparring_inversion.plugin import InvertingGradientsConfig

from sparring.context import Context, Round, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.layout import Layout, Segment
from sparring.roles import ActiveAttack, PassiveAttack
from sparring.signals import Broadcast
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView
from sparring_active_inversion.plugin import FishingConfig
from sparring_active_inversion.reading import GREY, UNKNOWN, foreign


@final
class Cast(ActiveAttack[Broadcast]):
    r"""Sends a last layer that flattens the loss of every class but the target c (class fishing).

    $\tilde W_{k} = W_k,\ \tilde b_k = b_k$ for k = c; $\tilde W_k = 0,\ \tilde b_k = \alpha$ otherwise, alpha = ``confidence``.
    Where $\alpha \gg z_c$, examples of other classes have $p_c = 0$ and the same logits whatever they show: nothing of them
    flows back. An example of class c sends $\partial L / \partial h = (p_c - 1) W_c = -W_c$.

    Source: Wen, Geiping, Fowl, Goldblum, Goldstein, ICML 2022, 2202.00580, class fishing; their feature fishing, which tells
    several examples of one class apart, is not here. Raises `ConfigError` where the target is no class, or the model does not
    end in a linear layer.
    """

    def __init__(self, config: FishingConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: Broadcast, ctx: Context) -> Broadcast:
        """The broadcast with a flattened last layer, in the rounds of the attack."""
        if not isinstance(ctx, Round) or ctx.index not in self.config.rounds:
            return signal
        K, c = signal.plan.shape.classes, self.config.target
        if c >= K:
            raise ConfigError(f"target is {c}; classes are 0 to {K - 1}")
        weight, bias = _last(signal.layout, K)
        row = signal.row.clone()
        W, b = row[weight.start : weight.stop].view(weight.shape), row[bias.start : bias.stop]
        others = torch.arange(K, device=row.device) != c
        W[others] = 0
        b[others] = self.config.confidence
        return replace(signal, row=row, overrides={i: self.attack_transform(own, ctx) for i, own in signal.overrides.items()})


@final
class Haul(PassiveAttack[UpdateView | AggregateView]):
    r"""Inverts the gradient of the one example of the target class among the B behind a capture.

    $n = -B\, \partial L / \partial b_c$ examples are of class c. For n = 1 the gradient before the last layer is 1/B of that
    example's, and so is $\partial L / \partial W_c = -h$; the last layer's other rows are mixed with other classes, but follow:
    $\partial_{W_k} L = h / (K - 1)$, $\partial_{b_k} L = 1 / (K - 1)$. `inverting-gradients` then inverts the gradient of one
    example with a known label. For n > 1 it inverts the mean of n, with a note; for n = 0 everything is grey. The B - 1 others
    are grey with label -1. Under other settings than FedSGD, grant ``local-settings``, so that n is counted.

    Sources: Wen et al., ICML 2022, 2202.00580; the inversion: Geiping et al., NeurIPS 2020, 2003.14053.
    """

    def __init__(self, config: FishingConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        """The fished example of each capture."""
        shape, notes = view.shape.inputs, []
        found = Reconstruction(0.0, {}, {}, {}, {})
        caught = []
        for capture in view.captures:
            key, B = (capture.round, capture.client), capture.examples
            found.inputs[key] = capture.row.new_full((B, *shape), GREY)
            found.labels[key] = torch.full((B,), UNKNOWN, device=capture.row.device)
            found.loss[key] = 1.0
            n = self._count(capture, scale_of(capture, view))
            if n is None:
                notes.append(foreign(capture))
            elif n > 0:
                caught.append(self.isolated(capture))
            if n is not None and n > 1:
                notes.append(f"round {capture.round}: {n} examples of the target class, whose mean gradient was inverted")
        c = self.config
        options = InvertingGradientsConfig(iterations=c.iterations, restarts=c.restarts, tv=c.tv, snapshots=0)
        inverted = InvertingGradients(options).attack_observe(UpdateView(view.shape, view.loss, caught), ctx)
        for key, x in inverted.inputs.items():
            found.inputs[key][:1], found.labels[key][:1], found.loss[key] = x, c.target, inverted.loss[key]
        cost = max(inverted.cost, float(len(view.captures)), 1.0)
        return Reconstruction(cost, found.inputs, found.labels, found.loss, {}, notes=tuple(dict.fromkeys(notes)))

    def _count(self, capture: Capture, size: float) -> int | None:
        """n, the number of examples of the target class; None where the last layer was not flattened."""
        weight, bias = _last(capture.layout, capture.plan.shape.classes)
        others = torch.arange(capture.plan.shape.classes, device=capture.row.device) != self.config.target
        if bool(capture.parameters[weight.start : weight.stop].view(weight.shape)[others].any()):
            return None
        slope = -float(capture.row[bias.start : bias.stop][self.config.target]) / size
        n = -capture.examples * slope
        return min(max(round(n), 0), capture.examples) if math.isfinite(n) else 0

    def isolated(self, capture: Capture) -> Capture:
        """The capture of the one example of the target class, up to scale."""
        K, c = capture.plan.shape.classes, self.config.target
        weight, bias = _last(capture.layout, K)
        row = capture.row.clone()
        slope = row[bias.start : bias.stop][c].clone()
        at = row[weight.start : weight.stop].view(weight.shape)
        others = torch.arange(K, device=row.device) != c
        at[others] = -at[c] / (K - 1)
        row[bias.start : bias.stop][others] = -slope / (K - 1)
        label = torch.full((1,), c, device=row.device)
        return replace(capture, row=row / slope.abs(), examples=1, count=1, labels=label)


def _last(layout: Layout, K: int) -> tuple[Segment, Segment]:
    """Weight [K, h] and bias [K] of a last linear layer."""
    last = [s for s in layout.segments if s.role == "parameter"][-2:]
    if len(last) == 2:
        weight, bias = last
        if len(weight.shape) == 2 and weight.shape[0] == K and bias.shape == (K,):
            return weight, bias
    raise ConfigError(f"fishing needs a model that ends in a linear layer with a bias and {K} outputs; choose another model")
