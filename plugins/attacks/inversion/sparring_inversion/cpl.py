"""Client privacy leakage: squared distance of gradients with the task loss, from tiled patches, by L-BFGS."""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.least_squares import match
from sparring_inversion.matching import Look, Stack
from sparring_inversion.plugin_matching import CplConfig


@final
class Cpl(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from the gradient, and from the label that the model must give them.

    $\arg\min_{x'} \|\nabla_\theta L(x', y) - \nabla_\theta L(x, y)\|_2^2 + \alpha L(x', y)$ by L-BFGS, without a box. alpha is
    ``task``, and L the run's own loss, the mean over the batch; the paper squares f(x') - y in its place. A start is one patch
    of ``patch`` x ``patch`` numbers ~ N(0, 1) for each example and channel, tiled over the image (along the last axis, for
    inputs that are no images). Restarts, ``loss``, ``cost``, captures of norm 0 and what a row must be are as in `dlg`.

    Source: Wei, Liu, Loper, Chow, Gursoy, Truex, Wu, ESORICS 2020, 2004.10397.
    """

    def __init__(self, config: CplConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        return match(view, self.config, ctx, self._tiled, self._task)

    def _task(self, look: Look) -> Tensor:
        return self.config.task * look.loss

    def _tiled(self, stack: Stack, generator: torch.Generator) -> Tensor:
        return tiled(stack.inputs, self.config.patch, generator)


def tiled(shape: tuple[int, ...], side: int, generator: torch.Generator) -> Tensor:
    """Inputs [B, ...] whose last two axes (of images [B, C, H, W]; else the last one) repeat with period ``side``."""
    axes = 2 if len(shape) == 4 else 1
    lead, size = shape[: len(shape) - axes], shape[len(shape) - axes :]
    x = torch.randn(*lead, *(min(side, n) for n in size), generator=generator)
    x = x.repeat(*(1 for _ in lead), *(math.ceil(n / side) for n in size))
    for axis, n in zip(range(-axes, 0), size, strict=True):
        x = x.narrow(axis, 0, n)
    return x
