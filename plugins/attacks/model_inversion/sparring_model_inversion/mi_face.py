"""MI-Face: gradient descent on the doubt that an input is of a class."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Setup
from sparring.errors import BudgetSpent
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import ModelView, QueryView, Representatives
from sparring_model_inversion.frames import Frames
from sparring_model_inversion.losses import doubt, prior
from sparring_model_inversion.oracle import oracle
from sparring_model_inversion.plugin import MIFaceConfig

STARTS = {"zeros": 0.0, "grey": 0.5}
REPORTS = 100


@final
class MIFace(PassiveAttack[ModelView | QueryView]):
    r"""For each class y: $x_i = \mathrm{clamp}(x_{i-1} - \lambda \nabla c(x_{i-1}))$ on $c(x) = 1 - f_y(x) + \mathrm{aux}(x)$.

    $f_y$: the softmax of the answer, [K]; aux: ``tv`` x total variation, 0 by default as published. A class is done when
    $c(x_i) \le \gamma$, when $c(x_i) \ge \max(c(x_{i-1}), \dots, c(x_{i-\beta}))$, or after alpha steps; what is found is the
    x_i [1, ...] of least cost, the earliest of equals. All classes go down together, and those that are done cost nothing.
    Where the slope is 0 in float32 (a class whose probability vanishes at the start), the start is found, as in the paper.
    By queries (``reads: query``): slopes as `Black` has them; when the budget does not pay for a further step, what there is
    by then is found, with a note. The paper's PROCESS step (denoising, sharpening) is not here.

    Source: Fredrikson, Jha, Ristenpart, ACM CCS 2015, algorithm 1. Raises `ConfigError` for tasks other than classification.
    """

    def __init__(self, config: MIFaceConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: ModelView | QueryView, ctx: Setup) -> Representatives:
        """One input of each class."""
        c, K, notes = self.config, view.shape.classes, []
        f = oracle(view, doubt, c, ctx)
        x = f.like.new_full((K, *view.shape.inputs), STARTS[c.init])
        best, least = x.clone(), x.new_full((K,), torch.inf)
        recent = x.new_full((K, c.patience), torch.inf)
        going = torch.arange(K, device=x.device)
        frames = Frames(c.snapshots, c.iterations)
        for i in range(c.iterations):
            at = x[going]
            try:
                cost, slope = f.slope(at, going)
            except BudgetSpent as spent:
                notes.append(f"the query budget ended it after {i} of {c.iterations} steps: {spent}")
                break
            aux, aux_slope = prior(at, c.tv)
            cost = cost + aux
            better = cost < least[going]
            best[going[better]], least[going[better]] = at[better], cost[better]
            x[going] = (at - c.lr * (slope + aux_slope)).clamp(0, 1)
            on = (cost > c.gamma) & (cost < recent[going].amax(1))
            recent[going, i % c.patience] = cost
            frames.see(i + 1, best)
            going = going[on]
            if not len(going):
                break
            if (i + 1) % max(1, c.iterations // REPORTS) == 0:
                ctx.progress(f"inverting {len(going)} of {K} classes", (i + 1) / c.iterations)
        found = {y: best[y : y + 1] for y in range(K)}
        return Representatives(float(f.spent), found, {y: frames.of(y) for y in range(K)}, notes=tuple(notes))
