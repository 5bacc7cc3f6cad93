"""Gradient matching by Adam inside the box of inputs, all starts of all captures at once: what several attacks share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.func import grad

from sparring.context import Setup
from sparring.errors import ConfigError
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.matching import Look, Snapshots, Stack, said

REPORTS = 100

Form = Callable[[Tensor], Tensor]


def least(loss: Tensor) -> Tensor:
    """The starts [S] of least ``loss`` [S, restarts], which is finite where any is."""
    return loss.nan_to_num(torch.inf).argmin(1)


@dataclass(frozen=True)
class Recipe:
    """What is minimised and how: ``mismatch`` [S] of gradients, which also chooses among starts, plus ``penalty`` [S] of x.

    ``start``: the first dummies [restarts, B, ...] of a stack of one capture, by draws on the CPU. ``rate``: the learning
    rate's factor at a step. ``signed``: Adam sees the sign of the slope. ``look``: what is made of a stack's inputs, the
    gradient at the broadcast parameters by default; ``graphs``: how many gradients of the model each such look holds.
    ``noise``: the standard deviation of what each step adds to dummies, over its rate. ``compiled``: whether the slope in the
    dummies is compiled first.

    ``form``: for a stack, what inputs its dummies stand for; by default they are positions in the box, from 0 to 1, so that a
    step is a share of it, whatever its size (for images, both are the same). ``hold``: what dummies become after a step.
    ``pool``: of a stack, the dummies [S, restarts, ...] and mismatches [S, restarts] at the end, the inputs [S, B, ...] with
    their losses [S]; without it, the start of least mismatch is taken.
    """

    iterations: int
    restarts: int
    lr: float
    betas: tuple[float, float]
    signed: bool
    snapshots: int
    rate: Callable[[int], float]
    start: Callable[[Stack, torch.Generator], Tensor]
    mismatch: Callable[[Look, Stack], Tensor]
    penalty: Callable[[Stack], Callable[[Tensor, Look], Tensor]]
    look: Callable[[Stack], Callable[[Tensor], Look]] = lambda stack: stack.look
    graphs: Callable[[Stack], int] = lambda stack: 1
    noise: float = 0.0
    compiled: bool = False
    form: Callable[[Stack], Form] = lambda stack: stack.placed
    hold: Form = lambda z: z.clamp(0, 1)
    pool: Callable[[Stack, Tensor, Tensor], tuple[Tensor, Tensor]] | None = None


def descend(view: UpdateView | AggregateView, every: Sequence[Stack], recipe: Recipe, ctx: Setup) -> Reconstruction:
    """The reconstructions of every capture in stacks; ``loss`` is the final mismatch, ``cost`` counts gradient evaluations.

    A capture of norm 0 has nothing to match: its start is returned.
    """
    found = Reconstruction(0.0, {}, {}, {}, {})
    evaluations, done = 0, 0
    for part in [part for stack in every for part in stack.chunks(recipe.restarts * recipe.graphs(stack))]:
        evaluations += _descend(part, recipe, found, ctx, done / len(view.captures), len(part) / len(view.captures))
        done += len(part)
    return Reconstruction(float(evaluations), found.inputs, found.labels, found.loss, found.progress, notes=said(every))


def _descend(stack: Stack, recipe: Recipe, found: Reconstruction, ctx: Setup, at: float, share: float) -> int:
    iterations, restarts = recipe.iterations, recipe.restarts
    # A capture's stream gives its starts, then the noise of its steps.
    streams = [ctx.generator(capture.client) for capture in stack.captures]
    starts = [recipe.start(stack.take([i]), stream) for i, stream in enumerate(streams)]
    z = torch.cat([start.to(stack.captures[0].row) for start in starts])
    everything = stack.repeated(restarts)
    form = recipe.form(everything)
    snapshots = Snapshots(recipe.snapshots, iterations)
    adam = torch.optim.Adam([z], lr=recipe.lr, betas=recipe.betas)
    schedule = torch.optim.lr_scheduler.LambdaLR(adam, recipe.rate)
    looked, penalty = recipe.look(everything), recipe.penalty(everything)
    live = (everything.norms > 0).to(z.dtype)

    def total(z: Tensor) -> tuple[Tensor, Tensor]:
        x = form(z)
        look = looked(x)
        loss = recipe.mismatch(look, everything)
        return (live * (loss + penalty(x, look))).sum(), loss

    slopes = _compiled(total, z) if recipe.compiled else _slopes(total)
    for step in range(1, iterations + 1):
        slope, loss = slopes(z)
        z.grad = slope.sign_() if recipe.signed else slope
        adam.step()
        if recipe.noise:
            drawn = torch.cat([torch.randn((restarts, *z.shape[1:]), generator=stream) for stream in streams]).to(z)
            z.add_(drawn * live.view(-1, *(1 for _ in z.shape[1:])), alpha=recipe.noise * recipe.lr * recipe.rate(step - 1))
        schedule.step()
        z.copy_(recipe.hold(z))
        snapshots.see(step, form(z))
        if step % max(1, iterations // REPORTS) == 0:
            ctx.progress(f"inverting {len(stack)} gradients, loss {float(loss.mean()):.2g}", at + share * step / iterations)
    x = form(z)
    final_loss = recipe.mismatch(looked(x), everything).detach()
    chosen = least(final_loss.view(-1, restarts)) + restarts * torch.arange(len(stack), device=z.device)
    inputs, losses = x[chosen], final_loss[chosen]
    if recipe.pool is not None:
        inputs, losses = recipe.pool(stack, z.view(len(stack), restarts, *z.shape[1:]), final_loss.view(-1, restarts))
    for i, (key, row) in enumerate(zip(stack.keys, chosen.tolist(), strict=True)):
        found.inputs[key], found.labels[key] = inputs[i], stack.labels[i]
        found.loss[key], found.progress[key] = float(losses[i]), snapshots.of(row)
    return len(everything) * (iterations + 1) * recipe.graphs(stack)


Total = Callable[[Tensor], tuple[Tensor, Tensor]]


def _slopes(total: Total) -> Total:
    """Of dummies, the slope of a total in them, and the losses beside it."""

    def slopes(z: Tensor) -> tuple[Tensor, Tensor]:
        z = z.detach().requires_grad_()
        value, loss = total(z)
        return torch.autograd.grad(value, z)[0], loss.detach()

    return slopes


def _compiled(total: Total, z: Tensor) -> Total:
    """`_slopes`, compiled for dummies like ``z``; raises `ConfigError` where torch cannot compile it."""
    total(z)  # what is computed once is computed here, and not traced
    slopes: Total = torch.compile(grad(total, has_aux=True), dynamic=False, fullgraph=True)
    try:
        slopes(z)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(f"compiled is true, and torch cannot compile it: {reason}; set compiled: false") from error
    return slopes


def clamped_normal(restarts: int, stack: Stack, generator: torch.Generator) -> Tensor:
    """Starts [restarts, B, ...] of one capture: N(0, 1), clamped to [0, 1]."""
    return torch.randn((restarts, *stack.inputs), generator=generator).clamp_(0, 1)
