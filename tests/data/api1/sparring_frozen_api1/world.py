"""Data, a model and a trainer."""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import final

import torch
from torch import Tensor, nn

from sparring.context import Round, Setup
from sparring.errors import DataError
from sparring.hookspecs import hookimpl
from sparring.roles import Data, Dataset, Model, Task, Trainer
from sparring.signals import DataShape, Examples, Release, State, Updates
from sparring_frozen_api1.plugin import AdagradConfig, NetConfig, QuadrantsConfig

SITES = 5


@final
class Quadrants(Dataset):
    """8 by 8 images: noise up to .6 and one bright quadrant, a little brighter at each of five sites."""

    def __init__(self, config: QuadrantsConfig) -> None:
        self.config = config

    def load(self, ctx: Setup) -> Data:
        """Half of the source to train, a tenth public if asked for, the rest to test; the split is drawn."""
        n, g = self.config.examples, torch.Generator().manual_seed(20)
        y, site = torch.arange(n) % 4, torch.randint(SITES, (n,), generator=g)
        x = 0.6 * torch.rand(n, 1, 8, 8, generator=g)
        for k in range(4):
            top, left = 4 * (k // 2), 4 * (k % 2)
            x[y == k, :, top : top + 4, left : left + 4] += 0.3
        x = x + 0.02 * site[:, None, None, None]
        order = torch.randperm(n, generator=ctx.generator())
        train, public, test = order.tensor_split([n // 2, n // 2 + n // 10])
        source = Examples(x, y, {"site": site})
        if not self.config.public:
            train, public = torch.cat([train, public]), public[:0]
        held = source.take(public) if self.config.public else None
        return Data(
            source.take(train), source.take(test), DataShape((1, 8, 8), 4), ("top left", "top right", "left", "right"), held
        )


@final
class Net(Model):
    """Linear, ReLU, linear."""

    def __init__(self, config: NetConfig) -> None:
        self.config = config

    def module(self, shape: DataShape) -> nn.Module:
        """A fresh module; raises `DataError` for dense tasks."""
        if shape.task != "classification":
            raise DataError(f"frozen-net classifies whole inputs; the task is {shape.task}")
        h = self.config.hidden
        return nn.Sequential(nn.Flatten(), nn.Linear(prod(shape.inputs), h), nn.ReLU(), nn.Linear(h, shape.classes))


@final
class FedAdagrad(Trainer):
    """v += D^2, theta += lr D / (sqrt v + tau) of the release D (Reddi et al., ICLR 2021, 2003.00295)."""

    def __init__(self, config: AdagradConfig) -> None:
        self.config = config

    @hookimpl
    def client_update(self, task: Task, ctx: Round) -> Updates:
        """Rows as the run's strategy trains them, weighted by numbers of examples."""
        rows = task.strategy.train(task.broadcast, task.clients, task.group, ctx.index)
        sizes = torch.tensor(task.work.data.sizes(task.clients), dtype=rows.dtype, device=rows.device)
        return Updates(rows, task.broadcast.layout, task.clients, sizes)

    def apply(self, state: State, release: Release) -> State:
        """The state after Adagrad's step; buffers take the mean."""
        p, c = state.layout.parameters, self.config
        step: Tensor = release.vector[:p]
        squares = state.extras.get("squares", torch.zeros_like(step)) + step.square()
        moved = state.row[:p] + c.lr * step / (squares.sqrt() + c.tau)
        row = torch.cat([moved, state.row[p:] + release.vector[p:]])
        return replace(state, row=row, extras={**state.extras, "squares": squares})
