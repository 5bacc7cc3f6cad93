"""Adversarial priors: inverting gradients with features, style and class means of images that the attacker owns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.boxed import Recipe, descend
from sparring_inversion.inverting_gradients import recipe
from sparring_inversion.matching import Look, Stack, stacks
from sparring_inversion.own_images import Likeness, Own, classes
from sparring_inversion.plugin_priors import AdversarialPriorsConfig


@final
class AdversarialPriors(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update with the help of own images $P_y$ of their classes.

    $\arg\min_{x' \in [0,1]^n} 1 - \cos(\nabla_\theta L(x', y), g^*) + \alpha_{tv} TV(x')
    + \alpha_f \sum_l d(\phi_l(x'), \bar\phi_l) + \alpha_s \sum_l d(G(\phi_l(x')), \bar G_l)$

    by the Adam of `inverting-gradients`, whose options and whose ``loss`` these are; with ``features`` (alpha_f) and ``style``
    (alpha_s) of 0 and ``init: randn`` this is that attack. $\phi_l$ [C, P], channels by positions, are outputs of the
    convolutions and linear layers of the broadcast model itself, on one example at a time: BatchNorm has its running statistics
    there. $G(\phi) = \phi \phi^T / P$. $\bar\phi_l$ and $\bar G_l$ are means over $P_y$, and
    $d(a, m) = \|a - m\|_2^2 / \|m\|_2^2$, so that a = 0 is at distance 1 in any layer ($\|a\|_2^2$ where m is 0). The sum over
    layers is taken as their mean, and a batch's as that over its examples: weights need not follow the depth of a model.
    ``cost`` counts gradient evaluations, those of ``prior`` too: with respect to x' alone, there.

    $P_y$ are the public examples of the class y; masks of a segmentation have no class, and all examples are its own. A class
    without any takes all, and ``notes`` say so.

    ``prior`` is what the own images alone come to: the same minimisation from the first of the same starts without its first
    term, in which no number of the capture is left but its labels. What a reconstruction shows beyond that leaked.

    Raises `ConfigError` for a model without layers of the kind that ``layers`` names, and where there are no public examples.

    Source: Usynin, Rueckert, Kaissis 2022, 2203.00481. Which layers count by default, their scale and weights are not theirs.
    """

    def __init__(self, config: AdversarialPriorsConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        own, every, plain = Own(ctx.public), stacks(view, self.config.labels), recipe(self.config)
        start = partial(_means, own, plain) if self.config.init == "class-mean" else plain.start
        full = replace(plain, start=start, penalty=partial(self._penalty, own, plain))
        found = descend(view, every, full, _half(ctx, 0))
        blind = replace(full, restarts=1, snapshots=0, start=lambda *of: start(*of)[:1], look=_blind, mismatch=_nothing)
        prior = descend(view, [_blank(stack) for stack in every], blind, _half(ctx, 1))
        return replace(found, cost=found.cost + prior.cost, prior=prior.inputs, notes=(*found.notes, *own.notes(every)))

    def _penalty(self, own: Own, plain: Recipe, stack: Stack) -> Callable[[Tensor, Look], Tensor]:
        config, rough = self.config, plain.penalty(stack)
        if not (config.features or config.style):
            return rough
        likeness = Likeness.of(own, stack, config.layers)

        def penalty(x: Tensor, look: Look) -> Tensor:
            features, style = likeness(x)
            return rough(x, look) + config.features * features + config.style * style

        return penalty


def _means(own: Own, uniform: Recipe, stack: Stack, generator: torch.Generator) -> Tensor:
    """Starts [restarts, B, ...] of one capture: the means of own images of its labels, up to 5e-3 of noise."""
    labels = classes(stack.labels, 2)[0].tolist()
    means = stack.positions(torch.stack([own.of(label).mean(0) for label in labels])).cpu()
    return (means + 0.01 * (uniform.start(stack, generator) - 0.5)).clamp_(0, 1)


def _blind(stack: Stack) -> Callable[[Tensor], Look]:
    """A look that sees no gradient."""
    del stack
    return lambda x: Look({}, 0 * x.flatten(1).sum(1))


def _nothing(look: Look, stack: Stack) -> Tensor:
    del stack
    return look.loss


def _blank(stack: Stack) -> Stack:
    """The stack without a number that was sent: only what its captures answer, and their labels, are left."""
    return replace(stack, captures=tuple(replace(c, row=torch.ones_like(c.row)) for c in stack.captures))


def _half(ctx: Setup, which: int) -> Setup:
    """The context whose progress fills the first or the second half."""
    return replace(ctx, progress=lambda text, done: ctx.progress(text, (which + done) / 2))
