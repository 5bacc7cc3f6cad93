"""Model inversion by the logits of a class and priors of images, without a generator."""

from __future__ import annotations

from itertools import product
from typing import final

import torch
from torch import Tensor

from sparring.context import Setup
from sparring.errors import BudgetSpent
from sparring.hookspecs import hookimpl
from sparring.roles import PassiveAttack
from sparring.views import ModelView, QueryView, Representatives
from sparring_model_inversion.frames import Frames
from sparring_model_inversion.losses import LOSSES, prior
from sparring_model_inversion.oracle import oracle
from sparring_model_inversion.plugin import ModelInversionConfig

REPORTS = 100


@final
class ModelInversion(PassiveAttack[ModelView | QueryView]):
    r"""For each class y: Adam on $L(z(T x), y) + \mathrm{tv}\,TV(x) + \mathrm{l2}\,\overline{x^2} + R_{BN}(T x)$ in [0, 1].

    z: logits [K]; L: ``loss``; T: a roll by up to ``shift`` pixels, drawn at each step, the same for all; TV: mean absolute
    differences of neighbours; R_BN: distance of features to BatchNorm's running statistics, as `White` has it, with the K
    inputs of a start for a batch. Starts are uniform on [0, 1], the same for all classes, so that the names of classes decide
    nothing. Of the ``restarts`` of a class the one is found whose mean loss L over the rolls by -shift, 0 and shift in both
    directions is least, the earliest of equals: by the attacked model itself, never by the truth. Inputs that are no images
    are not rolled and have no TV. By queries (``reads: query``): slopes as `Black` has them, and no R_BN; when the budget does
    not pay for a further step and the choice, the choice is made among what there is by then, with a note.

    Sources: image priors and R_BN: Yin et al., CVPR 2020, 1912.08795; L: Yuan et al., AAAI 2023, 2302.09814 (max-margin) and
    Nguyen et al., CVPR 2023, 2304.01669 (logit); choice by transformed copies: Struppek et al., ICML 2022, 2201.12179. The
    latter three search the latent space of a generator, which needs public data; here it is the pixels'. Raises `ConfigError`
    for tasks other than classification.
    """

    def __init__(self, config: ModelInversionConfig) -> None:
        self.config = config

    @hookimpl
    def attack_observe(self, view: ModelView | QueryView, ctx: Setup) -> Representatives:
        """One input of each class."""
        c, K, R, notes = self.config, view.shape.classes, self.config.restarts, []
        turns = self._turns(view.shape.inputs)
        f = oracle(view, LOSSES[c.loss], c, ctx, c.statistics, reserve=len(turns) * R * K if R > 1 else 0)
        if c.statistics and not f.statistics:
            notes.append("no BatchNorm statistics can be read, so that they are no prior here")
        generator = ctx.generator()
        drawn = torch.randint(-c.shift, c.shift + 1, (c.iterations, 2), generator=generator).tolist()
        start = torch.rand(R, 1, *view.shape.inputs, generator=generator)
        x = start.to(f.like).repeat_interleave(K, 1).flatten(0, 1)
        y = torch.arange(K, device=x.device).repeat(R)
        frames, adam = Frames(c.snapshots, c.iterations), torch.optim.Adam([x], lr=c.lr)
        for i, turn in enumerate(drawn if len(turns) > 1 else [(0, 0)] * c.iterations):
            try:
                _, slope = f.slope(_rolled(x, turn), y)
            except BudgetSpent as spent:
                notes.append(f"the query budget ended it after {i} of {c.iterations} steps: {spent}")
                break
            x.grad = _rolled(slope, [-by for by in turn]) + prior(x, c.tv, c.l2)[1]
            adam.step()
            x.clamp_(0, 1)
            frames.see(i + 1, x)
            if (i + 1) % max(1, c.iterations // REPORTS) == 0:
                ctx.progress(f"inverting {K} classes", (i + 1) / c.iterations)
        chosen = y[:K]
        if R > 1:
            try:
                lost = f.loss(torch.stack([_rolled(x, turn) for turn in turns]), y).mean(0)
                chosen = lost.nan_to_num(torch.inf).view(R, K).argmin(0) * K + y[:K]
            except BudgetSpent as spent:
                notes.append(f"the first start of each class was taken unseen: {spent}")
        at = dict(enumerate(chosen.tolist()))
        found = {label: x[k : k + 1].clone() for label, k in at.items()}
        return Representatives(float(f.spent), found, {label: frames.of(k) for label, k in at.items()}, notes=tuple(notes))

    def _turns(self, inputs: tuple[int, ...]) -> list[tuple[int, ...]]:
        """The rolls over which a start is judged."""
        s = self.config.shift
        return list(product((-s, 0, s), repeat=2)) if s and len(inputs) == 3 else [(0, 0)]


def _rolled(x: Tensor, turn: tuple[int, ...] | list[int]) -> Tensor:
    return x.roll(tuple(turn), (-2, -1)) if any(turn) else x
