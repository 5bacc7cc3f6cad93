"""Inverting gradients: cosine similarity, total variation and a box, by Adam on signed gradients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.boxed import Recipe, clamped_normal, descend
from sparring_inversion.matching import Look, Stack, cosine, stacks, total_variation
from sparring_inversion.plugin import InvertingGradientsConfig
from sparring_inversion.plugin_priors import AdversarialPriorsConfig
from sparring_inversion.plugin_steps import FedavgInversionConfig

MILESTONES = (3 / 8, 5 / 8, 7 / 8)


@final
class InvertingGradients(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from its direction.

    $\arg\min_{x' \in [l, h]} 1 - \frac{\langle \nabla_\theta L(x, y), \nabla_\theta L(x', y) \rangle}
    {\|\nabla_\theta L(x, y)\|_2 \|\nabla_\theta L(x', y)\|_2} + \alpha TV(x')$

    over the concatenated gradient; alpha is ``tv``. Adam steps along the sign of the gradient in x', then x' is clamped to
    the box [l, h]: for images [0, 1], which is pixel space (models normalise inside), for records what their columns may be.
    ``lr`` and starts are shares of the box. Of ``restarts`` starts the one of least final gradient loss is returned, and
    ``loss`` is that loss: 1 - cosine. A capture of norm 0 has no direction: its start is returned, with loss 1. ``cost`` counts
    gradient evaluations.

    The published recipe has ``lr`` .1, ``momentum`` .9 and ``tv`` 1e-2 on small nets. The longer mean of signs of the defaults
    replaces the chatter of single signs near the optimum, which leaves a share of starts far from it.

    Source: Geiping, Bauermeister, Droege, Moeller, NeurIPS 2020, 2003.14053.
    """

    def __init__(self, config: InvertingGradientsConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        plan = recipe(self.config)
        if self.config.compiled:
            plan = replace(plan, compiled=True, look=lambda stack: stack.functional)
        return descend(view, stacks(view, self.config.labels), plan, ctx)


def recipe(config: InvertingGradientsConfig | FedavgInversionConfig | AdversarialPriorsConfig) -> Recipe:
    """Signed Adam in the box on 1 - cosine + ``tv`` x total variation, as ``config`` says.

    Starts are uniform for an ``init`` that is not of inverting-gradients.
    """

    def rate(step: int) -> float:
        return float(0.1 ** sum(step >= int(m * config.iterations) for m in MILESTONES))

    def starts(stack: Stack, generator: torch.Generator) -> Tensor:
        if config.init == "randn":
            return clamped_normal(config.restarts, stack, generator)
        x = torch.rand((config.restarts, *stack.inputs), generator=generator)
        return 0.5 + 0.01 * (x - 0.5) if config.init == "grey" else x

    def penalty(stack: Stack) -> Callable[[Tensor, Look], Tensor]:
        del stack
        return lambda x, look: config.tv * total_variation(x)

    betas = (config.momentum, 0.999)
    return Recipe(
        config.iterations, config.restarts, config.lr, betas, True, config.snapshots, rate, starts, _mismatch, penalty
    )


def _mismatch(look: Look, stack: Stack) -> Tensor:
    return 1 - cosine(look.gradient, stack)
