"""Gradient matching by L-BFGS from several starts: what DLG and CPL share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.lbfgs import lbfgs
from sparring_inversion.matching import Look, Snapshots, Stack, distance, said, stacks
from sparring_inversion.plugin import DlgConfig
from sparring_inversion.plugin_matching import CplConfig

DIVERGED = 1e-2
"""The relative distance above which a start is drawn anew: converged ones end below 1e-4, stuck ones above 3e-2."""

Start = Callable[[Stack, torch.Generator], Tensor]
Penalty = Callable[[Look], Tensor]


def match(
    view: UpdateView | AggregateView, config: DlgConfig | CplConfig, ctx: Setup, start: Start, penalty: Penalty
) -> Reconstruction:
    r"""Minimises $\|g(x') - g^*\|_2^2$ + ``penalty`` [S] without a box, from ``start`` [B, ...] of each capture, on the CPU.

    Of the iterates that of least distance is taken, clamped to the box; a start whose relative distance stays above 1e-2 is
    drawn anew, at most ``config.restarts`` times, and the least distance wins. ``loss`` is that distance over the gradient's
    squared norm: what the penalty comes to does not count. ``cost`` counts gradient evaluations.
    """
    found = Reconstruction(0.0, {}, {}, {}, {})
    evaluations, done = 0, 0
    every = stacks(view, config.labels)
    for part in (part for stack in every for part in stack.chunks()):
        ctx.progress(f"matching {len(part)} gradients", done / len(view.captures))
        evaluations += _match(part, config, found, ctx, start, penalty)
        done += len(part)
    return Reconstruction(float(evaluations), found.inputs, found.labels, found.loss, found.progress, notes=said(every))


def _match(
    stack: Stack, config: DlgConfig | CplConfig, found: Reconstruction, ctx: Setup, start: Start, penalty: Penalty
) -> int:
    generators = [ctx.generator(capture.client) for capture in stack.captures]
    pending, evaluations = list(range(len(stack))), 0
    for attempt in range(config.restarts + 1):
        part = stack.take(pending)
        x0 = torch.stack([start(stack, generators[i]) for i in pending]).to(stack.norms)
        snapshots = Snapshots(config.snapshots, config.iterations)
        x, loss = _descend(part, config, x0, snapshots, penalty)
        evaluations += len(part) * (config.iterations + 1)
        for row, (i, key) in enumerate(zip(pending, part.keys, strict=True)):
            if attempt == 0 or loss[row] < found.loss[key]:
                found.inputs[key], found.labels[key] = stack.inside(x[row]), stack.labels[i]
                found.loss[key], found.progress[key] = float(loss[row]), snapshots.of(row)
        pending = [i for i in pending if stack.norms[i] > 0 and not found.loss[stack.keys[i]] < DIVERGED]
        if not pending:
            break
    return evaluations


def _descend(
    stack: Stack, config: DlgConfig | CplConfig, x0: Tensor, snapshots: Snapshots, penalty: Penalty
) -> tuple[Tensor, Tensor]:
    """The iterates of least distance [S, B, ...], and their relative distances [S], infinite where none is finite."""
    live, unit = stack.norms > 0, stack.norms.square().clamp_min(torch.finfo(x0.dtype).tiny)
    distances = [unit]

    def evaluate(flat: Tensor) -> tuple[Tensor, Tensor]:
        x = flat.view_as(x0).detach().requires_grad_()
        look = stack.look(x)
        apart = distance(look.gradient, stack)
        objective = apart + penalty(look)
        (slope,) = torch.autograd.grad((objective * live).sum(), x)
        distances[0] = torch.where(live, apart.detach(), unit)
        return torch.where(live, objective.detach(), unit), slope.flatten(1)

    least, best = torch.full_like(unit, torch.inf), x0.flatten(1)
    for step, (x, _) in enumerate(lbfgs(evaluate, x0.flatten(1), config.lr, config.history)):
        better = distances[0] < least
        least, best = torch.where(better, distances[0], least), torch.where(better[:, None], x, best)
        snapshots.see(step, stack.inside(best.view_as(x0)))
        if step == config.iterations:
            break
    return best.view_as(x0), least / unit
