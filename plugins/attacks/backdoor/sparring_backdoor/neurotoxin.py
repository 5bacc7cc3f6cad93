"""Neurotoxin: a backdoor in the coordinates that honest clients hardly move."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.local import LocalContext, LocalPlan
from sparring.roles import ActiveAttack
from sparring_backdoor.configs import NeurotoxinConfig


def quiet(start: Tensor, previous: Tensor, ratio: float) -> Tensor:
    r"""Which coordinates [p] are among the round(ratio p), at least one, of the smallest $|\theta_t - \theta_{t-1}|$.

    With ties at the largest of them, all that tie; so where nothing moved, as in the first round, all.
    """
    moved = (start - previous).abs()
    return moved <= moved.kthvalue(max(1, round(ratio * len(moved)))).values


@final
class Neurotoxin(ActiveAttack[LocalPlan]):
    r"""After each step $\theta \leftarrow \theta_t + S \odot (\theta - \theta_t)$: projected gradient descent on $\bigcup S$.

    S: the coordinates that the last global update $\theta_t - \theta_{t-1}$ moved least, ``ratio`` of them (the paper masks the
    top-k of the others). The attack reads two broadcasts, which every participant receives. S is found anew in each round.

    Source: Zhang, Panda, Song, Yang, Mahoney, Gonzalez, Ramchandran and Mittal, "Neurotoxin: durable backdoors in federated
    learning", ICML 2022, 2206.10341.
    """

    def __init__(self, config: NeurotoxinConfig) -> None:
        self.config = config

    @hookimpl
    def attack_transform(self, signal: LocalPlan, ctx: Context) -> LocalPlan:
        """The plan whose steps stay in the quiet coordinates."""
        masks: dict[int, Tensor] = {}
        ratio = self.config.ratio

        def projected(row: Tensor, at: LocalContext) -> Tensor:
            assert at.start is not None
            assert at.previous is not None
            if at.step == 0:
                masks[at.client.id] = quiet(at.start, at.previous, ratio)
            return torch.where(masks[at.client.id], row, at.start)

        return signal.with_step(ctx.layer, projected)
