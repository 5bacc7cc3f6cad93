"""GradInversion: gradient matching held to BatchNorm statistics, as a group of seeds that must agree."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, LocalSettings, Reconstruction, UpdateView
from sparring_inversion.batchnorm import statistics, told
from sparring_inversion.boxed import Recipe, clamped_normal, descend
from sparring_inversion.matching import Look, Moments, Stack, distance, stacks, total_variation
from sparring_inversion.plugin_matching import GradInversionConfig


@final
class GradInversion(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from the gradient, BatchNorm's statistics, and agreement among seeds.

    $\arg\min_{x' \in [0,1]^n} \|g(x') - g^*\|_2^2 / \|g^*\|_2^2 + \alpha_{tv} TV(x') + \alpha_{l2} \|x'\|_2^2 +
    \alpha_{bn} \sum_l (\|\mu_l(x') - \mu_l\|_2 + \|\sigma_l^2(x') - \sigma_l^2\|_2) + \alpha_{group} \|x' - \bar{x}'\|_2^2$

    mu_l and sigma_l^2 are taken over the batch at the input of BatchNorm layer l, what they are held to is said by
    ``statistics``; the last mean is over the ``restarts`` seeds of a capture, norms of x' are means over its numbers. Adam with
    a warm-up and a cosine; a step at rate lambda adds N(0, (lambda alpha_n)^2), alpha_n being ``noise``; then x' is clamped to
    the box. The seed of least final gradient loss is returned, and ``loss`` is that: the relative squared distance. A capture
    of norm 0 has no gradient to match: its start is returned, with loss 1. ``cost`` counts gradient evaluations. A row must be
    a gradient: under other settings than FedSGD, grant ``local-settings``.

    Seeds have a batch's labels in one order, so that slots of the same label are held together; a slot whose label another one
    of its batch has too could be that one in another seed, and is left alone. The paper's registration of seeds (shifts found
    between images before their mean) is left out.

    Source: Yin, Mallya, Vahdat, Alvarez, Kautz, Molchanov, CVPR 2021, 2104.07586.
    """

    def __init__(self, config: GradInversionConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        config = self.config
        every = []
        for stack in stacks(view, config.labels):
            held = statistics(stack, config.statistics, view.settings)
            notes = (*stack.notes, *told(stack, config.statistics, view.settings))
            every.append(replace(stack, watched=tuple(held), notes=notes))
        recipe = Recipe(
            config.iterations,
            config.restarts,
            config.lr,
            (0.9, 0.999),
            False,
            config.snapshots,
            self._rate,
            self._starts,
            _mismatch,
            lambda stack: self._penalty(stack, view.settings),
            noise=config.noise,
        )
        return descend(view, every, recipe, ctx)

    def _rate(self, step: int) -> float:
        warmup, iterations = min(self.config.warmup, self.config.iterations // 2), self.config.iterations
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * min(1, (step - warmup) / (iterations - warmup))))

    def _starts(self, stack: Stack, generator: torch.Generator) -> Tensor:
        return clamped_normal(self.config.restarts, stack, generator)

    def _penalty(self, stack: Stack, settings: LocalSettings | None) -> Callable[[Tensor, Look], Tensor]:
        config, held = self.config, statistics(stack, self.config.statistics, settings)
        alone = (stack.labels[:, :, None] == stack.labels[:, None]).sum(2) == 1

        def penalty(x: Tensor, look: Look) -> Tensor:
            total = config.tv * total_variation(x) + config.l2 * x.flatten(1).square().mean(1)
            if config.restarts > 1:
                total = total + config.group * apart(x, config.restarts, alone)
            return total + config.bn * off(look.moments, held) if held else total

        return penalty


def apart(x: Tensor, seeds: int, alone: Tensor) -> Tensor:
    r"""Squared distances [S] of dummies ``x`` [S, B, ...] to the mean over ``seeds`` dummies in a row, as means over numbers.

    ``alone`` [S, B]: the slots that count. 0 for one seed.
    """
    group = x.view(-1, seeds, *x.shape[1:])
    from_mean = (group - group.mean(1, keepdim=True)).view_as(x).flatten(2)
    return (from_mean.square().mean(2) * alone).mean(1)


def off(moments: Moments, held: Moments) -> Tensor:
    """The sum [S] over layers of the L2 distances of means and of variances, with slope 0 where one is 0."""
    return torch.stack([_length(a - b) for name in held for a, b in zip(moments[name], held[name], strict=True)]).sum(0)


def _length(x: Tensor) -> Tensor:
    square = x.square().sum(1)
    return torch.where(square > 0, square, 1).sqrt() * (square > 0)


def _mismatch(look: Look, stack: Stack) -> Tensor:
    tiny = torch.finfo(stack.norms.dtype).tiny
    # A capture of norm 0 has distance 1 from whatever is found.
    return torch.where(stack.norms > 0, distance(look.gradient, stack) / stack.norms.square().clamp_min(tiny), 1)
