"""Neural Cleanse: a backdoored class is reached from everywhere by a trigger that is abnormally small."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.context import Context, Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import Examples, Release
from sparring_data_analysis.plugin import NeuralCleanseConfig

if TYPE_CHECKING:
    from sparring.lab import Lab

PATIENCE, FACTOR, FIRST_COST = 5, 1.5, 1e-3
CONSISTENT = 1.4826
"""Makes the median absolute deviation of normal values their standard deviation."""


@dataclass(frozen=True)
class Triggers:
    """A trigger for each class: ``mask`` [K, 1, ...] and ``pattern`` [K, ...] in [0, 1]; ``found`` [K]: which reach it."""

    mask: Tensor
    pattern: Tensor
    found: Tensor

    @property
    def sizes(self) -> Tensor:
        """L1 norms of the masks [K]; that of a whole mask where no trigger reaches the class."""
        norms = self.mask.flatten(1).sum(1)
        return torch.where(self.found, norms, torch.full_like(norms, self.mask[0].numel()))

    def on(self, inputs: Tensor, target: int) -> Tensor:
        """Inputs [m, ...] with the trigger of class ``target``: (1 - m) x + m p."""
        return (1 - self.mask[target]) * inputs + self.mask[target] * self.pattern[target]


def invert(
    module: nn.Module, inputs: Tensor, classes: int, config: NeuralCleanseConfig, generator: torch.Generator
) -> Triggers:
    r"""$\min_{m, p} \frac1B \sum_x \ell(f((1 - m) x + m p), t) + \lambda_t \|m\|_1$ for all classes t at once, by Adam.

    $\lambda_t$ grows by 1.5 after 5 steps in a row in which at least ``success`` of a batch reach t, and shrinks by $1.5^{1.5}$
    after as many in which fewer do. The smallest mask that came with such success is kept.
    """
    shape = (classes, *inputs.shape[1:])
    start = torch.rand((2, *shape), generator=generator, dtype=torch.float64).to(inputs) * 0.2 - 0.1
    raw_mask = (start[0, :, :1] if inputs.dim() == 4 else start[0]).clone().requires_grad_(True)
    raw_pattern = start[1].clone().requires_grad_(True)
    optimiser = torch.optim.Adam([raw_mask, raw_pattern], lr=config.lr, betas=(0.5, 0.9))
    cost = torch.full((classes,), FIRST_COST).to(inputs)
    above, below = torch.zeros_like(cost), torch.zeros_like(cost)
    best = Triggers(raw_mask.detach().sigmoid(), raw_pattern.detach().sigmoid(), torch.zeros_like(cost, dtype=torch.bool))
    size = min(config.batch, len(inputs))
    wanted = torch.arange(classes, device=inputs.device).repeat_interleave(size)
    for _ in range(config.steps):
        x = inputs[torch.randperm(len(inputs), generator=generator)[:size].to(inputs.device)]
        with torch.enable_grad():
            mask, pattern = raw_mask.sigmoid(), raw_pattern.sigmoid()
            m, p = mask[:, None], pattern[:, None]
            outputs = module(((1 - m) * x + m * p).flatten(0, 1))
            losses = F.cross_entropy(outputs, wanted, reduction="none").view(classes, size).mean(1)
            norms = mask.flatten(1).sum(1)
            gradients = torch.autograd.grad((losses + cost * norms).sum(), [raw_mask, raw_pattern])
        reached = (outputs.argmax(1) == wanted).view(classes, size).double().mean(1) >= config.success
        better = reached & (~best.found | (norms < best.sizes))
        wide = better.view(-1, *[1] * (inputs.dim() - 1))
        best = Triggers(
            torch.where(wide, mask.detach(), best.mask), torch.where(wide, pattern.detach(), best.pattern), best.found | reached
        )
        above, below = torch.where(reached, above + 1, 0.0), torch.where(reached, 0.0, below + 1)
        cost = torch.where(above >= PATIENCE, cost * FACTOR, torch.where(below >= PATIENCE, cost / FACTOR**1.5, cost))
        above, below = above * (above < PATIENCE), below * (below < PATIENCE)
        raw_mask.grad, raw_pattern.grad = gradients
        optimiser.step()
    return best


def anomalies(sizes: Tensor) -> Tensor:
    r"""Anomaly index $(\mathrm{med} - s_t) / (1.4826\,\mathrm{MAD})$ [K] of the sizes of the masks: high is abnormally small.

    0 for sizes at or above the median; infinite below it where more than half of the sizes are equal.
    """
    low = sizes.quantile(0.5) - sizes
    return torch.where(low > 0, low / (CONSISTENT * low.abs().quantile(0.5)), torch.zeros_like(low))


@final
class NeuralCleanse(Defence[Release]):
    """In the last round, looks for a backdoor in the model that is about to be released, and unlearns it.

    For each class the smallest trigger is inverted on public data (`invert`); classes whose `anomalies` exceed ``index`` are
    taken for backdoored. The model is then trained in the lab on the public data, a share ``triggered`` of which carries the
    inverted trigger under its true label, for ``passes`` local rounds for each such class. The release becomes the repaired
    row minus the state: exactly that row only where the server adds the release as it is (server learning rate 1, no server
    momentum), which a layer cannot see; FedSGD, whose server steps by the clients' learning rate, is refused. Where nothing is
    flagged, and before the last round, the release passes as it is. Raises `ConfigError` without public data, under FedSGD,
    and for fewer than 3 classes, of which none can be an outlier.

    Source: Wang, Yao, Shan, Li, Viswanath, Zheng and Zhao, "Neural Cleanse: identifying and mitigating backdoor attacks in
    neural networks", IEEE S&P 2019. There triggers are inverted on clean training data; here on public data.
    """

    def __init__(self, config: NeuralCleanseConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        """The release [d] whose sum with the state is the repaired model."""
        assert isinstance(ctx, Round)
        lab, public = ctx.lab, ctx.public
        if lab is None or public is None or ctx.parameters is None:
            raise ConfigError(
                f"'{ctx.layer}' needs public data and a lab to look for triggers; choose a data set that offers them"
            )
        if lab.settings.algorithm == "fedsgd":
            raise ConfigError(f"'{ctx.layer}' hands on a repaired model, but fedsgd scales what the server adds; use fedavg")
        classes = lab.plan.shape.classes
        if classes < 3:
            raise ConfigError(
                f"'{ctx.layer}' looks for an outlier among the classes; of {classes} none can be one: use 3 or more"
            )
        if ctx.index < ctx.rounds - 1:
            return signal
        start = ctx.parameters
        released = start + self._columns(signal, ctx, start)
        repaired = self.repair(released, public, lab, ctx.generator())
        return signal if repaired is released else self._release(signal, ctx, repaired - start)

    def repair(self, row: Tensor, public: Examples, lab: Lab, generator: torch.Generator) -> Tensor:
        """The row [d] without the backdoors that are found in it; the same object where none is."""
        inputs = public.x.to(row)
        triggers = invert(lab.model(row).requires_grad_(False), inputs, lab.plan.shape.classes, self.config, generator)
        flagged = torch.nonzero(anomalies(triggers.sizes) > self.config.index)[:, 0].tolist()
        for turn in range(self.config.passes):
            for place, target in enumerate(flagged):
                marked = torch.rand(len(inputs), generator=generator).to(inputs.device) < self.config.triggered
                wide = marked.view(-1, *[1] * (inputs.dim() - 1))
                x = torch.where(wide, triggers.on(inputs, target), inputs)
                row = row + lab.update(row, Examples(x, public.y.to(row.device)), turn * len(flagged) + place)
        return row

    @staticmethod
    def _columns(signal: Release, ctx: Round, start: Tensor) -> Tensor:
        """The release in the columns of the state."""
        if ctx.layout is None or signal.layout.size == ctx.layout.size:
            return signal.vector.to(start)
        parts = signal.layout.split(signal.vector)
        return torch.cat([parts[s.name].reshape(-1) for s in ctx.layout.segments]).to(start)

    @staticmethod
    def _release(signal: Release, ctx: Round, step: Tensor) -> Release:
        """The release whose columns of the state are ``step``; what it holds beside them stays."""
        if ctx.layout is None or signal.layout.size == ctx.layout.size:
            return replace(signal, vector=step.to(signal.vector))
        parts = {**signal.layout.split(signal.vector), **ctx.layout.split(step.to(signal.vector))}
        return replace(signal, vector=torch.cat([parts[s.name].reshape(-1) for s in signal.layout.segments]))
