"""R-GAP: from the last layer back, each layer's input as the solution of one linear system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.local import LossFn
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Capture, Reconstruction, UpdateView
from sparring_inversion.last_layer import Begun, begin
from sparring_inversion.matching import Stack, distance, scale_of
from sparring_inversion.plugin_analytic import RGapConfig
from sparring_inversion.records import box
from sparring_inversion.structure import Forward, Grads, Link, Say, UnmetError, gradients, grey, labelled, noted, probe
from sparring_inversion.systems import Counts, System

ZERO = 1e-4
"""Share of a layer's largest output up to which ReLU is taken to have given 0."""
MARGIN = 1e-7
"""Distance from the ends of their ranges within which sigmoid and tanh are taken to be saturated."""


@dataclass(frozen=True)
class Boundary:
    """Between two layers: the numbers ``z`` that pass, the error ``k`` = dL/dz, and which of z are known; each [n]."""

    z: Tensor
    k: Tensor
    known: Tensor


@final
class RGap(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the input behind one example's gradient, layer by layer, without optimisation.

    Behind layer i, with $z = W x$ and $x' = \sigma(z)$, both x' and dL/dx' are known. Then $z = \sigma^{-1}(x')$,
    $k = \sigma'(z) \odot \partial L / \partial x'$, and x is the least-squares solution of the linear system

    $W x = z, \quad k x^\top = \nabla W$ (for convolutions: their unrolled matrix, and k circulant),

    in float64; $\partial L / \partial x = W^\top k$ goes on to the layer before. A linear layer's gradient alone does.
    Rank analysis counts the equations of every convolution beforehand; where the rank is short of the unknowns, the solution
    of least norm goes on, and ``notes`` name the layer and the deficit.

    The model must be a chain of linear layers, convolutions, LeakyReLU, sigmoid, tanh, ReLU (where outputs of 0 say nothing
    about z, and their equations are left out), flattening, and anything affine before the first layer. Where it is not, or the
    update is zero, the result is grey, and ``notes`` say why. For several examples the solution is some mixture. Labels come of
    the gradient. ``loss`` is the relative squared distance of the gradient at the result; ``cost`` counts these gradients.

    Source: Zhu and Blaschko, ICLR 2021, 2010.07733.
    """

    def __init__(self, config: RGapConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        found = Reconstruction(0.0, {}, {}, {}, {})
        captures = [capture for capture in view.captures if capture.examples]
        reasons: list[str] = []
        for done, capture in enumerate(captures):
            key, scale = (capture.round, capture.client), scale_of(capture, view)
            ctx.progress(f"solving for the input of {len(captures)} updates", done / len(captures))
            if capture.examples > 1:
                reasons.append("several examples are behind the update: the systems have one mixture of them as their solution")
            found.inputs[key], found.labels[key] = grey(capture), labelled(capture, scale)
            try:
                x, label = self._solve(capture, view.loss, scale, reasons.append)
                x = x.to(capture.row).clamp(*box(capture.plan.shape, capture.row))
                found.inputs[key] = x.expand(capture.examples, *x.shape[1:]).clone()
                found.labels[key] = label.view(1) if capture.examples == 1 else found.labels[key]
            except UnmetError as reason:
                reasons.append(str(reason))
            stack = Stack((capture,), found.labels[key][None], (scale,), view.loss)
            tiny = torch.finfo(capture.row.dtype).tiny
            loss = distance(stack.gradient(found.inputs[key][None]), stack) / stack.norms.square().clamp_min(tiny)
            found.loss[key], found.progress[key] = float(loss), []
        notes = noted(reasons, len(captures))
        return Reconstruction(float(len(captures)), found.inputs, found.labels, found.loss, found.progress, notes=notes)

    def _solve(self, capture: Capture, loss: LossFn, scale: float, say: Say) -> tuple[Tensor, Tensor]:
        """The input [1, ...], unclamped, and the label [] behind one capture."""
        gradient = {name: g / scale for name, g in gradients(capture).items()}
        forward = probe(capture.module(), capture.plan.shape)
        links = chain(forward, gradient, self.config.unknowns)
        for name, short in deficits(links).items():
            say(f"rank analysis: the system of {name} is {short} equations short of its unknowns, and the result a guess")
        begun = begin(links[-1], gradient, loss, say)
        x = _backwards(links, gradient, begun, say)
        if not bool(x.isfinite().all()):
            raise UnmetError("the solution is no finite number")
        return forward.undo(x[None]), begun.label


def chain(forward: Forward, gradient: Grads, unknowns: int) -> Sequence[Link]:
    """The layers from the first with parameters to the last. Raises `UnmetError` unless it is a chain that can be solved."""
    links = forward.links[forward.first :]
    for link, after in zip(links, [*(link.x for link in links[1:]), forward.y], strict=True):
        if not torch.equal(link.y.flatten(1), after.flatten(1)):
            raise UnmetError(f"behind {link} stands something else than a layer (a skip connection, or a function)")
    for link in links:
        if "Pool" in link.kind:
            raise UnmetError(f"{link} pools: what it drops is in no system")
        if not isinstance(
            link.module, nn.Linear | nn.Conv2d | nn.Flatten | nn.Identity | nn.LeakyReLU | nn.ReLU | nn.Sigmoid | nn.Tanh
        ):
            raise UnmetError(f"{link} is of a kind that cannot be inverted")
        if link.holds and (link.parameter("weight") not in gradient or sum(link.name == other.name for other in links) > 1):
            raise UnmetError(f"the gradient of the weights of {link} is not sent, or is a sum over several uses")
        if isinstance(link.module, nn.Linear) and link.x.dim() != 2:
            raise UnmetError(f"{link} takes more than one vector")
        if isinstance(link.module, nn.Conv2d) and Counts.of(link).unknowns > unknowns:
            raise UnmetError(f"{link} has {Counts.of(link).unknowns} unknowns, more than unknowns: {unknowns}")
    return links


def deficits(links: Sequence[Link]) -> dict[str, int]:
    """Rank analysis: the convolutions whose systems fall short of their unknowns whatever the input is, and by how much."""
    short = {str(link): Counts.of(link).short for link in links if isinstance(link.module, nn.Conv2d)}
    return {name: number for name, number in short.items() if number}


def _backwards(links: Sequence[Link], gradient: Grads, begun: Begun, say: Say) -> Tensor:
    """The input [n] of the first layer of a chain whose last layer is solved."""
    weight = links[-1].module.weight
    assert isinstance(weight, Tensor)
    at = Boundary(begun.x, weight.detach().mT @ begun.k, torch.ones_like(begun.x))
    for link in reversed(links[:-1]):
        at = _layer(link, at, gradient, say) if link.holds else _inverted(link.module, at)
    return at.z


def _layer(link: Link, at: Boundary, gradient: Grads, say: Say) -> Boundary:
    """From the output of a layer with weights to its input."""
    if not bool(at.k.any()):
        raise UnmetError(f"the error behind {link} is zero: its gradient says nothing")
    g = gradient[link.parameter("weight")]
    bias = link.module.bias
    if isinstance(link.module, nn.Linear):
        k = gradient.get(link.parameter("bias"), at.k)
        k = k if bool(k.any()) else at.k
        x = g.mT @ k / k.square().sum()
        return Boundary(x, link.module.weight.detach().mT @ k, torch.ones_like(x))
    system = System.of(link, at.k, g)
    z = at.z
    if isinstance(bias, Tensor):
        z = (z.view(len(bias), -1) - bias.detach()[:, None]).flatten()
    x, short = system.solve(z, at.known)
    if short and not Counts.of(link).short:
        say(f"the system of {link} falls short of its unknowns by {short} for this input, and the result is a guess")
    return Boundary(x, system.W.mT @ at.k, torch.ones_like(x))


def _inverted(module: nn.Module, at: Boundary) -> Boundary:
    """From the output of a layer without weights to its input."""
    x = at.z
    if isinstance(module, nn.Sigmoid):
        held = x.clamp(MARGIN, 1 - MARGIN)
        return Boundary(held.logit(), at.k * held * (1 - held), at.known * (held == x))
    if isinstance(module, nn.Tanh):
        held = x.clamp(-1 + MARGIN, 1 - MARGIN)
        return Boundary(held.atanh(), at.k * (1 - held.square()), at.known * (held == x))
    if isinstance(module, nn.ReLU) or (isinstance(module, nn.LeakyReLU) and module.negative_slope == 0):
        on = (x > ZERO * x.abs().max()).to(x)
        return Boundary(x * on, at.k * on, at.known * on)
    if isinstance(module, nn.LeakyReLU):
        slope = torch.where(x >= 0, 1.0, module.negative_slope)
        return Boundary(x / slope, at.k * slope, at.known)
    return at
