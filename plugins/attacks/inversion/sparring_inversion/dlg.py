"""Deep leakage from gradients: squared distance of gradients, by L-BFGS."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.lbfgs import lbfgs
from sparring_inversion.matching import Snapshots, Stack, distance, stacks
from sparring_inversion.plugin import DlgConfig

DIVERGED = 1e-2
"""The relative loss above which a start is drawn anew: converged ones end below 1e-4, stuck ones above 3e-2."""


@final
class Dlg(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from the gradient itself.

    $\arg\min_{x'} \sum_l \|\nabla_{\theta_l} L(x', y) - \nabla_{\theta_l} L(x, y)\|_2^2$ by L-BFGS from x' ~ N(0, 1), without a
    box; the iterate of least loss is returned, clamped to [0, 1]. Labels are granted or recovered (iDLG), never optimised. A
    start whose loss stays above 1e-2 of the captured gradient's squared norm has diverged: it is drawn anew, at most
    ``restarts`` times, and the start of least loss wins. ``loss`` is that ratio. A capture of norm 0 has no gradient to match:
    its start is returned, with loss 1. ``cost`` counts gradient evaluations.

    A row must be a gradient: under other settings than FedSGD, grant ``local-settings``, so that the update is divided by lr.

    Sources: Zhu, Liu, Han, NeurIPS 2019, 1906.08935; labels: Zhao, Mopuri, Bilen 2020, 2001.02610.
    """

    def __init__(self, config: DlgConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        found = Reconstruction(0.0, {}, {}, {}, {})
        evaluations, done = 0, 0
        for part in (part for stack in stacks(view, self.config.labels) for part in stack.chunks()):
            ctx.progress(f"matching {len(part)} gradients", done / len(view.captures))
            evaluations += self._match(part, found, ctx)
            done += len(part)
        return Reconstruction(float(evaluations), found.inputs, found.labels, found.loss, found.progress)

    def _match(self, stack: Stack, found: Reconstruction, ctx: Setup) -> int:
        generators = [ctx.generator(capture.client) for capture in stack.captures]
        pending, evaluations = list(range(len(stack))), 0
        for attempt in range(self.config.restarts + 1):
            part = stack.take(pending)
            x0 = torch.stack([torch.randn(stack.inputs, generator=generators[i]) for i in pending]).to(stack.norms)
            snapshots = Snapshots(self.config.snapshots, self.config.iterations)
            x, loss = self._descend(part, x0, snapshots)
            evaluations += len(part) * (self.config.iterations + 1)
            for row, (i, key) in enumerate(zip(pending, part.keys, strict=True)):
                if attempt == 0 or loss[row] < found.loss[key]:
                    found.inputs[key], found.labels[key] = x[row].clamp(0, 1), stack.labels[i]
                    found.loss[key], found.progress[key] = float(loss[row]), snapshots.of(row)
            pending = [i for i in pending if stack.norms[i] > 0 and not found.loss[stack.keys[i]] < DIVERGED]
            if not pending:
                break
        return evaluations

    def _descend(self, stack: Stack, x0: Tensor, snapshots: Snapshots) -> tuple[Tensor, Tensor]:
        """The iterates of least loss [S, B, ...], and their relative losses [S], infinite where none is finite."""
        live, unit = stack.norms > 0, stack.norms.square().clamp_min(torch.finfo(x0.dtype).tiny)

        def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
            x = flat.view_as(x0).detach().requires_grad_()
            loss = distance(stack.gradient(x), stack)
            (slope,) = torch.autograd.grad((loss * live).sum(), x)
            return torch.where(live, loss.detach(), unit), slope.flatten(1)

        least, best = torch.full_like(unit, torch.inf), x0.flatten(1)
        for step, (x, loss) in enumerate(lbfgs(evaluate, x0.flatten(1), self.config.lr, self.config.history)):
            better = loss < least
            least, best = torch.where(better, loss, least), torch.where(better[:, None], x, best)
            snapshots.see(step, best.view_as(x0))
            if step == self.config.iterations:
                break
        return best.view_as(x0), least / unit
