"""Oracles: the loss of classes and its slope in the inputs, from a model's parameters or from its answers alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from torch import Tensor, nn

from sparring.context import Setup
from sparring.errors import BudgetSpent, ConfigError
from sparring.views import ModelView, QueryView
from sparring_model_inversion.losses import Loss
from sparring_model_inversion.plugin import ReleasedConfig

AT_ONCE = 4096
"""Inputs of one query or of one forward pass without slopes."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Oracle(ABC):
    """Answers about a classifier. ``like``: an empty tensor of its device and type; ``spent``: inputs, so far; ``statistics``:
    whether slopes are drawn to BatchNorm's.
    """

    like: Tensor
    spent: int = 0
    statistics: bool = False

    @abstractmethod
    def slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The loss [m] of classes ``y`` [m] at ``x`` [m, ...] and its slope [m, ...]; a slope that is no number is 0."""

    @abstractmethod
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss [c, m] of classes ``y`` [m] at copies ``x`` [c, m, ...]."""


@final
class White(Oracle):
    r"""Autograd through the released parameters, those of the last round that is read.

    With a ``weight`` the slope is that of the loss plus
    $K\,\mathrm{weight} \sum_l \|\mu_l(x) - \hat\mu_l\|_2 + \|\sigma^2_l(x) - \hat\sigma^2_l\|_2$ over the BatchNorm layers l,
    $\hat\mu_l, \hat\sigma^2_l$ their running statistics and $\mu_l, \sigma^2_l$ those of the K inputs of a start, one of each
    class (Yin et al., CVPR 2020, 1912.08795; K, because losses are summed over inputs, not averaged).
    """

    def __init__(self, view: ModelView, loss: Loss, weight: float) -> None:
        row = view.parameters[-1]
        self.module = view.module().requires_grad_(False)
        self.classes, self._loss, self.weight, self.like = view.shape.classes, loss, weight, row.new_empty(0)
        self.seen: list[tuple[Tensor, Tensor, Tensor]] = []
        for layer in self.module.modules() if weight else ():
            if isinstance(layer, BATCH_NORMS) and layer.running_mean is not None:
                layer.register_forward_pre_hook(self._see)
                self.statistics = True

    def _see(self, layer: nn.Module, args: Sequence[Tensor]) -> None:
        running = dict(layer.named_buffers())
        self.seen.append((args[0], running["running_mean"], running["running_var"]))

    def slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().requires_grad_()
        value = self._loss(self.module(x), y)
        total = value.sum()
        for h, mean, variance in self.seen:
            h = h.flatten(2).reshape(-1, self.classes, h.shape[1], h[0, 0].numel())
            own = h.mean((1, 3)), h.var((1, 3), correction=0)
            for found, known in zip(own, (mean, variance), strict=True):
                total = total + self.classes * self.weight * (found - known).norm(dim=1).sum()
        self.seen.clear()
        (slope,) = torch.autograd.grad(total, x)
        self.spent += len(x)
        return value.detach(), slope.nan_to_num(0, 0, 0)

    @torch.no_grad()
    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        z = torch.cat([self.module(part) for part in x.flatten(0, 1).split(AT_ONCE)])
        self.seen.clear()
        self.spent += len(z)
        return self._loss(z.unflatten(0, x.shape[:2]), y)


@final
class Black(Oracle):
    r"""Central differences of the answers along n random orthonormal directions u_i, of each step the same for all inputs.

    $g = \frac{D}{n} \sum_{i \le n} \frac{L(x + r u_i) - L(x - r u_i)}{2r} u_i$, r = ``radius``, n = min(``directions``, D).
    Unbiased up to $O(r^2)$, and for n = D the numeric gradient itself (Fredrikson et al., CCS 2015, black box); for
    n < D, the estimate of Choromanski et al., ICML 2018, 1804.02395. The loss is the mean over the 2n queries: no further
    query for it. Queries may leave [0, 1] by r. Raises `BudgetSpent` where a slope would leave less than ``reserve`` queries.
    """

    def __init__(self, view: QueryView, loss: Loss, config: ReleasedConfig, reserve: int, ctx: Setup) -> None:
        self.query, self._loss, self.config = view.query, loss, config
        self.generator = ctx.generator()
        self.most = None if view.budget is None else view.budget - reserve
        self.like = torch.empty(0, device=ctx.device)

    def slope(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        D, r = x[0].numel(), self.config.radius
        n = min(self.config.directions, D)
        if self.most is not None and self.spent + 2 * n * len(x) > self.most:
            raise BudgetSpent(f"a step takes {2 * n * len(x)} queries, and {max(0, self.most - self.spent)} are left for steps")
        u = torch.linalg.qr(torch.randn(D, n, generator=self.generator))[0].T.to(x)
        step = r * u.view(n, 1, *x.shape[1:])
        up, down = self.loss(torch.cat([x + step, x - step]), y).chunk(2)
        slope = D / n * torch.einsum("nm,nd->md", (up - down) / (2 * r), u)
        return (up + down).mean(0) / 2, slope.view_as(x).nan_to_num(0, 0, 0)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        answers = []
        for part in x.flatten(0, 1).split(AT_ONCE):
            answers.append(self.query(part))
            self.spent += len(part)
        return self._loss(torch.cat(answers).to(x).unflatten(0, x.shape[:2]), y)


def oracle(
    view: ModelView | QueryView, loss: Loss, config: ReleasedConfig, ctx: Setup, weight: float = 0.0, reserve: int = 0
) -> Oracle:
    """The oracle of a view; ``weight``: of BatchNorm statistics, ``reserve``: queries that are kept for the end.

    Raises `ConfigError` for tasks other than classification: one input then has no one class.
    """
    if view.shape.task != "classification":
        raise ConfigError(f"the task is {view.shape.task}; model inversion finds inputs of a class: choose a classifier")
    if isinstance(view, ModelView):
        return White(view, loss, weight)
    return Black(view, loss, config, reserve, ctx)
