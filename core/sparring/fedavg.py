"""The default trainer: federated averaging, and FedSGD as its one-gradient case."""

from __future__ import annotations

from dataclasses import replace
from typing import final

import torch
from torch import Tensor, nn

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.layout import load_buffers
from sparring.roles import Task, Trainer
from sparring.signals import Release, State, Updates


@final
class FederatedAveraging(Trainer):
    r"""FedAvg and FedSGD (McMahan et al., AISTATS 2017, 1602.05629) with server momentum (Hsu et al. 2019, 1909.06335).

    Clients send $\Delta_i = \theta_i - \theta$ (FedSGD: $-\nabla L_i(\theta)$); the server keeps
    $v \leftarrow \beta v + \Delta$ and sets $\theta \leftarrow \theta + \eta_s v$. Buffers take the mean of the clients'
    own, without momentum.
    """

    def __init__(self, lr: float, momentum: float, weighted: bool, buffers: dict[int, Tensor] | None = None) -> None:
        self.lr, self.momentum, self.weighted, self.buffers = lr, momentum, weighted, buffers

    @hookimpl
    def client_update(self, task: Task, ctx: Round) -> Updates:
        rows = task.strategy.train(task.broadcast, task.clients, task.group, ctx.index)
        sizes = [len(task.work.examples(i, task.group)) for i in task.clients]
        weights = torch.tensor(sizes if self.weighted else [float(s > 0) for s in sizes], dtype=rows.dtype, device=rows.device)
        return Updates(rows, task.broadcast.layout, task.clients, weights)

    def apply(self, state: State, release: Release) -> State:
        p = state.layout.parameters
        step, extras = release.vector[:p], dict(state.extras)
        if self.momentum:
            step = extras["velocity"] = self.momentum * extras.get("velocity", torch.zeros_like(step)) + step
        row = torch.cat([state.row[:p] + self.lr * step, state.row[p:] + release.vector[p:]])
        return replace(state, row=row, extras=extras)

    def model(self, state: State, client: int | None = None) -> nn.Module:
        """The global model; with local buffers, a client's model has its own."""
        module = state.plan.factory().to(state.row.device, state.row.dtype)
        state.layout.load(module, state.row)
        if client is not None and self.buffers is not None:
            load_buffers(module, self.buffers[client])
        return module.eval()
