"""Blended: a faint pattern over the whole input."""

from __future__ import annotations

import torch

from sparring.context import Context
from sparring_backdoor.configs import BlendedConfig
from sparring_backdoor.poison import Make, Shape, Trigger, TriggerPoison


def blend(config: BlendedConfig) -> Make:
    r"""The trigger $T(x) = (1 - \alpha)\,x + \alpha\,p$, p uniform in $[0, 1]$ in every pixel or feature.

    p is drawn from the run's seed and its number alone, so that all clients and the objective have the same. Not idempotent
    for alpha below 1. In vectors the pattern is in [0, 1] in the features' unit.
    """

    def make(shape: Shape, ctx: Context, rank: int | None) -> Trigger:
        del rank
        generator = ctx.key.child("trigger", "blended", config.pattern).generator()
        return Trigger(torch.full(shape, config.alpha), torch.rand(shape, generator=generator))

    return make


def blended(config: BlendedConfig) -> TriggerPoison:
    """Poison with `blend`.

    Source: Chen, Liu, Li, Lu and Song, "Targeted backdoor attacks on deep learning systems using data poisoning", 2017,
    1712.05526 (its random pattern).
    """
    return TriggerPoison(blend(config), config.target, config.fraction)
