"""Stacked strategy: all clients of a group train at once, their parameters stacked along the first dimension."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.func import vmap

from sparring.groups import HONEST
from sparring.local import Batch, Client, LocalContext, LocalPlan
from sparring.signals import Broadcast, ModelPlan
from sparring.strategies import Strategy, Work
from sparring.train import client_of, ends_of, generator, pure_loss

CHUNK = 128
"""Clients that are stacked at once: bounds the memory of their activations."""


def obstacle(module: nn.Module) -> str | None:
    """Why a module cannot be stacked, or None: layers that draw at random or write buffers while they train."""
    for name, child in module.named_modules():
        if isinstance(child, nn.modules.batchnorm._BatchNorm | nn.modules.dropout._DropoutNd):
            return f"{name} is a {type(child).__name__}"
        if isinstance(child, nn.RNNBase):
            return f"{name} is a {type(child).__name__}, whose kernels cannot be vectorised over clients"
    return None


@final
class Stacked(Strategy):
    """``vmap`` over clients of the gradient rule's functional form; lots are padded and masked."""

    name = "stacked"

    def __init__(self, work: Work) -> None:
        self.work = work
        self.module: nn.Module | None = None
        self.plan = work.plan
        held = {(i, False): work.data.clients[i] for i in sorted(work.data)}
        held |= {} if work.clean is None else {(i, True): work.clean.clients[i] for i in sorted(work.clean)}
        sizes = [len(examples) for examples in held.values()]
        self.offset = dict(zip(held, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
        self.x = torch.cat([examples.x for examples in held.values()]).to(work.device)
        self.y = torch.cat([examples.y for examples in held.values()]).to(work.device)

    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        rows = broadcast.row.new_zeros(len(clients), broadcast.layout.size)
        at: dict[int, list[int]] = {}
        for k, client in enumerate(clients):
            at.setdefault(id(broadcast.to(client).plan), []).append(k)
        for slots in at.values():
            self._load(broadcast.to(clients[slots[0]]).plan)
            for part in (slots[start : start + CHUNK] for start in range(0, len(slots), CHUNK)):
                rows[part] = self._train(broadcast, [clients[k] for k in part], group, round_)
        return rows

    def _load(self, plan: ModelPlan) -> None:
        if plan is not self.plan or self.module is None:
            with torch.random.fork_rng(devices=[]):
                self.module = plan.factory().to(self.work.device, self.work.dtype).train()
            self.plan = plan

    def _train(self, broadcast: Broadcast, ids: Sequence[int], group: str, round_: int) -> Tensor:
        assert self.module is not None
        work, settings, layout = self.work, self.work.settings, broadcast.layout
        plan, p = work.plans[group], layout.parameters
        clients = [client_of(i, work.examples(i, group), settings) for i in ids]
        start = torch.stack([broadcast.to(i).row for i in ids])
        ends = {i: ends_of(broadcast.to(i)) for i in ids} if plan.batch or plan.step else {}
        theta = start[:, :p].clone()
        sgd = settings.algorithm == "fedsgd"
        lr, momentum, decay = (1.0, 0.0, 0.0) if sgd else (settings.lr, settings.momentum, settings.weight_decay)
        velocity = torch.zeros_like(theta)
        numbers = [plan.gradient.numbers(client) for client in clients]
        stacked = {name: torch.tensor([n[name] for n in numbers], dtype=work.dtype, device=work.device) for name in numbers[0]}
        noise = [generator(work, round_, plan.gradient_owner, i) for i in ids]
        clean = {i: group == HONEST and (i, True) in self.offset for i in ids}
        batches = _Batches(self, plan, clients, round_, [self.offset[i, clean[i]] for i in ids], Ends(ends, lr))
        rest = {k: v[0] for k, v in layout.split(start[:1, :]).items() if k not in layout.split(start[0], "parameter")}
        loss = pure_loss(self.module, plan)

        def grads(
            params: dict[str, Tensor], x: Tensor, y: Tensor, mask: Tensor | None, own: dict[str, Tensor]
        ) -> dict[str, Tensor]:
            whole = lambda q, a, b: loss({**rest, **q}, a, b)  # noqa: E731
            return plan.gradient.grads(whole, params, Batch(x, y, mask), own)

        ragged, even = vmap(grads), vmap(grads, in_dims=(0, 0, 0, None, 0))
        for step in range(max((c.steps for c in clients), default=0)):
            x, y, mask = batches.at(step)
            full = mask is None
            made = (even if full else ragged)(dict(layout.split(theta, "parameter")), x, y, mask, stacked)
            gradient = torch.cat([made[s.name].reshape(len(ids), -1) for s in layout.segments if s.role == "parameter"], 1)
            active = torch.tensor([step < c.steps for c in clients], device=work.device)
            drawn = [
                plan.gradient.noise(p, n, g) if step < c.steps else None
                for n, g, c in zip(numbers, noise, clients, strict=True)
            ]
            if any(d is not None for d in drawn):
                zero = torch.zeros(p, dtype=work.dtype)
                gradient = gradient + torch.stack([zero if d is None else d.to(zero) for d in drawn]).to(gradient)
            if decay:
                gradient = gradient + decay * theta
            if momentum:
                velocity = torch.where(active[:, None], momentum * velocity + gradient, velocity)
                gradient = velocity
            theta = theta.sub_(gradient, alpha=lr) if full else torch.where(active[:, None], theta - lr * gradient, theta)
            theta = batches.after(theta, step)
        out = torch.zeros_like(start)
        torch.sub(theta, start[:, :p], out=out[:, :p])
        return out


@dataclass(frozen=True)
class Ends:
    """What every step of a round is told beside its batch: where each client started, and its step size."""

    rows: Mapping[int, tuple[Tensor, Tensor]]
    lr: float


class _Batches:
    """The lots of a group of clients, step by step, padded to one size; ``offsets``: where each client's examples begin."""

    def __init__(
        self, strategy: Stacked, plan: LocalPlan, clients: Sequence[Client], round_: int, offsets: Sequence[int], ends: Ends
    ) -> None:
        work = strategy.work
        self.strategy, self.plan, self.clients, self.round = strategy, plan, clients, round_
        self.offsets, self.ends = offsets, ends
        self.lots = [list(plan.sampler.batches(c, generator(work, round_, "sampler", c.id))) for c in clients]
        self.streams = {
            (name, c.id): generator(work, round_, name, c.id) for name, _ in (*plan.batch, *plan.step) for c in clients
        }
        self.empty = torch.zeros(0, dtype=torch.long)

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Inputs [n, L, ...], targets [n, L, ...] and mask [n, L] of one step; None where every lot is full."""
        lots = [lots[step] if step < len(lots) else self.empty for lots in self.lots]
        width = max(1, *(len(lot) for lot in lots))
        mask = torch.zeros(len(lots), width, dtype=self.strategy.work.dtype)
        index = torch.zeros(len(lots), width, dtype=torch.long)
        for k, (lot, offset) in enumerate(zip(lots, self.offsets, strict=True)):
            index[k, : len(lot)] = lot + offset
            mask[k, : len(lot)] = 1
        device = self.strategy.work.device
        flat = index.view(-1).to(device)
        x, y = self.strategy.x[flat], self.strategy.y[flat]
        x, y = x.view(len(lots), width, *x.shape[1:]), y.view(len(lots), width, *y.shape[1:])
        if self.plan.batch:
            return self._changed(x, y, [len(lot) for lot in lots], step)
        return x, y, None if all(len(lot) == width for lot in lots) else mask.to(device)

    def _changed(self, x: Tensor, y: Tensor, sizes: Sequence[int], step: int) -> tuple[Tensor, Tensor, Tensor]:
        """The lots behind the plan's batch functions, which may change the number of rows and the kind of targets."""
        made: dict[int, Batch] = {}
        for k, client in enumerate(self.clients):
            if step < client.steps:
                made[k] = Batch(x[k, : sizes[k]], y[k, : sizes[k]])
                for name, change in self.plan.batch:
                    made[k] = change(made[k], self._context(name, client, step))
        width = max(1, *(len(batch.x) for batch in made.values()))
        first = next(iter(made.values()))
        x = first.x.new_zeros(len(sizes), width, *first.x.shape[1:])
        y = first.y.new_zeros(len(sizes), width, *first.y.shape[1:])
        mask = torch.zeros(len(sizes), width, dtype=self.strategy.work.dtype, device=x.device)
        for k, batch in made.items():
            x[k, : len(batch.x)], y[k, : len(batch.x)] = batch.x, batch.y
            mask[k, : len(batch.x)] = 1 if batch.mask is None else batch.mask
        return x, y, mask

    def after(self, theta: Tensor, step: int) -> Tensor:
        """The parameter rows after the plan's step functions."""
        if not self.plan.step:
            return theta
        rows = []
        for row, client in zip(theta, self.clients, strict=True):
            for name, change in self.plan.step if step < client.steps else ():
                row = change(row, self._context(name, client, step))
            rows.append(row)
        return torch.stack(rows)

    def _context(self, name: str, client: Client, step: int) -> LocalContext:
        start, previous = self.ends.rows[client.id]
        return LocalContext(client, self.round, step, self.streams[name, client.id], start, previous, self.ends.lr)
