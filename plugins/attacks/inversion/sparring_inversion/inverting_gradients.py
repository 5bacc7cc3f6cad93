"""Inverting gradients: cosine similarity, total variation and a box, by Adam on signed gradients."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import AggregateView, Reconstruction, UpdateView
from sparring_inversion.matching import Snapshots, Stack, cosine, stacks, total_variation
from sparring_inversion.plugin import InvertingGradientsConfig

MILESTONES = (3 / 8, 5 / 8, 7 / 8)
REPORTS = 100


@final
class InvertingGradients(PassiveAttack[UpdateView | AggregateView]):
    r"""Reconstructs the inputs behind an update from its direction.

    $\arg\min_{x' \in [0,1]^n} 1 - \frac{\langle \nabla_\theta L(x, y), \nabla_\theta L(x', y) \rangle}
    {\|\nabla_\theta L(x, y)\|_2 \|\nabla_\theta L(x', y)\|_2} + \alpha TV(x')$

    over the concatenated gradient; alpha is ``tv``. Adam steps along the sign of the gradient in x', then x' is clamped to
    [0, 1], which is pixel space: models normalise inside. Of ``restarts`` starts the one of least final gradient loss is
    returned, and ``loss`` is that loss: 1 - cosine. A capture of norm 0 has no direction: its start is returned, with loss 1.
    ``cost`` counts gradient evaluations.

    The published recipe has ``lr`` .1, ``momentum`` .9 and ``tv`` 1e-2 on small nets. The longer mean of signs of the defaults
    replaces the chatter of single signs near the optimum, which leaves a share of starts far from it.

    Source: Geiping, Bauermeister, Droege, Moeller, NeurIPS 2020, 2003.14053.
    """

    def __init__(self, config: InvertingGradientsConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Reconstruction:
        found = Reconstruction(0.0, {}, {}, {}, {})
        evaluations, done = 0, 0
        parts = [part for stack in stacks(view, self.config.labels) for part in stack.chunks(self.config.restarts)]
        for part in parts:
            evaluations += self._invert(part, found, ctx, done / len(view.captures), len(part) / len(view.captures))
            done += len(part)
        return Reconstruction(float(evaluations), found.inputs, found.labels, found.loss, found.progress)

    def _invert(self, stack: Stack, found: Reconstruction, ctx: Setup, at: float, share: float) -> int:
        config, restarts = self.config, self.config.restarts
        x = torch.cat([self._starts(stack, ctx.generator(capture.client)) for capture in stack.captures])
        everything = stack.repeated(restarts)
        snapshots = Snapshots(config.snapshots, config.iterations)
        adam = torch.optim.Adam([x], lr=config.lr, betas=(config.momentum, 0.999))
        schedule = torch.optim.lr_scheduler.MultiStepLR(adam, [int(m * config.iterations) for m in MILESTONES], 0.1)
        live = (everything.norms > 0).to(x.dtype)
        for step in range(1, config.iterations + 1):
            x.requires_grad_()
            loss = 1 - cosine(everything.gradient(x), everything)
            (slope,) = torch.autograd.grad((live * (loss + config.tv * total_variation(x))).sum(), x)
            x.requires_grad_(False)
            x.grad = slope.sign_()
            adam.step()
            schedule.step()
            x.clamp_(0, 1)
            snapshots.see(step, x)
            if step % max(1, config.iterations // REPORTS) == 0:
                ctx.progress(
                    f"inverting {len(stack)} gradients, loss {float(loss.detach().mean()):.2g}",
                    at + share * step / config.iterations,
                )
        final_loss = 1 - cosine(everything.gradient(x), everything)
        chosen = final_loss.nan_to_num(torch.inf).view(len(stack), restarts).argmin(1)
        for i, key in enumerate(stack.keys):
            row = i * restarts + int(chosen[i])
            found.inputs[key], found.labels[key] = x[row].clone(), stack.labels[i]
            found.loss[key], found.progress[key] = float(final_loss[row]), snapshots.of(row)
        return len(everything) * (config.iterations + 1)

    def _starts(self, stack: Stack, generator: torch.Generator) -> Tensor:
        """The starts [restarts, B, ...] of one capture, drawn on the CPU."""
        shape = (self.config.restarts, *stack.inputs)
        row = stack.captures[0].row
        if self.config.init == "randn":
            x = torch.randn(shape, generator=generator).clamp_(0, 1)
        else:
            x = torch.rand(shape, generator=generator)
        if self.config.init == "grey":
            x = 0.5 + 0.01 * (x - 0.5)
        return x.to(row)
