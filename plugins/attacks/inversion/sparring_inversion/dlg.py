"""Deep leakage from gradients: squared distance of gradients, by L-BFGS."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.least_squares import match
from sparring_inversion.matching import Look, Stack
from sparring_inversion.plugin import DlgConfig


@final
class Dlg(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from the gradient itself.

    $\arg\min_{x'} \sum_l \|\nabla_{\theta_l} L(x', y) - \nabla_{\theta_l} L(x, y)\|_2^2$ by L-BFGS from x' ~ N(0, 1), without a
    box; the iterate of least loss is returned, clamped to [0, 1] or, of records, to what their columns may be. Labels are
    granted or recovered, never optimised: with ``labels: idlg`` this is iDLG. A start whose loss stays above 1e-2 of the
    captured gradient's squared norm has diverged: it is drawn anew, at most ``restarts`` times, and the start of least loss
    wins. ``loss`` is that ratio. A capture of norm 0 has no gradient to match: its start is returned, with loss 1. ``cost``
    counts gradient evaluations.

    A row must be a gradient: under other settings than FedSGD, grant ``local-settings``, so that the update is divided by lr.

    Sources: Zhu, Liu, Han, NeurIPS 2019, 1906.08935; labels: Zhao, Mopuri, Bilen 2020, 2001.02610.
    """

    def __init__(self, config: DlgConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        return match(view, self.config, ctx, _normal, _nothing)


def _normal(stack: Stack, generator: torch.Generator) -> Tensor:
    return torch.randn(stack.inputs, generator=generator)


def _nothing(look: Look) -> Tensor:
    return torch.zeros_like(look.loss)
