"""Local training of one client after the other in one process: the reference that every other strategy must agree with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import final

import torch
from torch import Tensor, nn

from sparring.groups import HONEST
from sparring.layout import Layout, Segment, float_buffers, load_buffers
from sparring.local import Batch, Client, Functional, LocalContext, LocalPlan, PureLoss
from sparring.signals import Broadcast, Examples, ModelPlan
from sparring.strategies import Strategy, Work
from sparring.views import LocalSettings


def client_of(client: int, examples: Examples, settings: LocalSettings) -> Client:
    """A client's numbers for one round: its batch size and how many steps it takes."""
    size = len(examples)
    batch = min(settings.batch_size or max(size, 1), max(size, 1))
    if size == 0:
        steps = 0
    elif settings.algorithm == "fedsgd":
        steps = 1
    else:
        steps = settings.steps or settings.epochs * math.ceil(size / batch)
    return Client(client, size, batch, steps)


def generator(work: Work, round_: int, layer: str, client: int) -> torch.Generator:
    """The stream of a layer for one client in one round."""
    return work.key.child("round", round_, "layer", layer, "client", client).generator()


def ends_of(broadcast: Broadcast) -> tuple[Tensor, Tensor]:
    """The parameter rows [p] of a broadcast and of the one before (the same in the first round): what a step is told."""
    p = broadcast.layout.parameters
    start = broadcast.row[:p]
    known = broadcast.previous is not None and len(broadcast.previous) == len(broadcast.row)
    return start, broadcast.previous[:p] if known and broadcast.previous is not None else start


def pure_loss(module: nn.Module, plan: LocalPlan) -> PureLoss:
    """Per-example losses as a function of parameters; buffers are the module's own."""
    buffers = dict(module.named_buffers())

    def loss(params: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return plan.loss(Functional(module, {**buffers, **params}), Batch(x, y))

    return loss


class FlatModule:
    """A module whose trainable parameters, and their gradients, are views into two flat buffers.

    Convolution weights may lie in ``channels_last`` order inside the buffers; ``load`` and ``dump`` speak the canonical row.
    """

    def __init__(self, plan: ModelPlan, layout: Layout, device: torch.device, dtype: torch.dtype, channels_last: bool) -> None:
        self.layout = layout
        self.module = plan.factory().to(device, dtype).train()
        self.trained = [s for s in layout.segments if s.role == "parameter"]
        self.permuted = {s.name for s in self.trained if channels_last and len(s.shape) == 4}
        self.flat = torch.zeros(layout.parameters, device=device, dtype=dtype)
        self.grad = torch.zeros_like(self.flat)
        self.others = {
            s: t for s in layout.segments if s.role in ("frozen", "buffer") and (t := self._tensor(s.name)) is not None
        }
        parameters = dict(self.module.named_parameters())
        for segment in self.trained:
            parameter = parameters[segment.name]
            parameter.data = self._view(self.flat, segment)
            parameter.grad = self._view(self.grad, segment)
        for segment in self.others:
            if segment.role == "frozen":
                parameters[segment.name].requires_grad_(False)
        self.parameters = {s.name: parameters[s.name] for s in self.trained}
        # Counters do not travel: every client's begin where the model's own did, whoever trained in this module before.
        self.counters = [(b, b.clone()) for b in self.module.buffers() if not b.is_floating_point()]

    def _tensor(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        tensor: Tensor = getattr(self.module.get_submodule(owner), leaf)
        return tensor

    def _view(self, flat: Tensor, s: Segment) -> Tensor:
        part = flat[s.start : s.stop]
        if s.name not in self.permuted:
            return part.view(s.shape)
        o, i, h, w = s.shape
        return part.view(o, h, w, i).permute(0, 3, 1, 2)

    def inward(self, row: Tensor) -> Tensor:
        """A canonical parameter row [p] in the buffer's own order."""
        if not self.permuted:
            return row
        inner = torch.empty_like(self.flat)
        for s in self.trained:
            self._view(inner, s).copy_(row[s.start : s.stop].view(s.shape))
        return inner

    def outward(self, inner: Tensor) -> Tensor:
        """A vector in the buffer's order as a canonical parameter row [p]."""
        if not self.permuted:
            return inner
        return torch.cat([self._view(inner, s).reshape(-1) for s in self.trained])

    @torch.no_grad()
    def load(self, row: Tensor) -> None:
        """Take over a canonical row [d]."""
        self.flat.copy_(self.inward(row[: self.layout.parameters]))
        for segment, tensor in self.others.items():
            tensor.copy_(row[segment.start : segment.stop].view(segment.shape))
        for counter, initial in self.counters:
            counter.copy_(initial)

    @torch.no_grad()
    def difference(self, start: Tensor, out: Tensor) -> None:
        """Write this module's row minus ``start`` into ``out`` [d]."""
        p = self.layout.parameters
        torch.sub(self.outward(self.flat), start[:p], out=out[:p])
        for s, tensor in self.others.items():
            torch.sub(tensor.reshape(-1), start[s.start : s.stop], out=out[s.start : s.stop])


class Learner:
    """Trains single clients with one module: what a sequential run does, and what each worker process does."""

    def __init__(self, work: Work, channels_last: bool) -> None:
        self.work, self.channels_last = work, channels_last
        self.plan: ModelPlan | None = None
        self.flat: FlatModule
        self.data = {i: _placed(work.data.clients[i], work.device, channels_last) for i in work.data}
        clean = {} if work.clean is None else work.clean.clients
        self.clean = {i: _placed(own, work.device, channels_last) for i, own in clean.items()}

    def _module(self, broadcast: Broadcast) -> FlatModule:
        if self.plan is not broadcast.plan:
            work = self.work
            self.flat = FlatModule(broadcast.plan, broadcast.layout, work.device, work.dtype, self.channels_last)
            self.plan = broadcast.plan
        return self.flat

    def train(self, broadcast: Broadcast, client_id: int, group: str, round_: int, out: Tensor) -> None:
        """Write the client's update [d] into ``out``."""
        work, settings = self.work, self.work.settings
        flat, plan = self._module(broadcast), work.plans[group]
        examples = self.clean.get(client_id) if group == HONEST else None
        examples = self.data[client_id] if examples is None else examples
        client = client_of(client_id, examples, settings)
        flat.load(broadcast.row)
        start, previous = ends_of(broadcast)
        if work.buffers is not None:
            load_buffers(flat.module, work.buffers[client_id])
        _seed(work.key.child("round", round_, "layer", "model", "client", client_id).number(), work.device)
        sgd = settings.algorithm == "fedsgd"
        lr, momentum, decay = (1.0, 0.0, 0.0) if sgd else (settings.lr, settings.momentum, settings.weight_decay)
        velocity = torch.zeros_like(flat.flat) if momentum else None
        numbers = plan.gradient.numbers(client)
        noise = generator(work, round_, plan.gradient_owner, client_id)
        streams = {name: generator(work, round_, name, client_id) for name, _ in (*plan.batch, *plan.step)}
        lots = plan.sampler.batches(client, generator(work, round_, "sampler", client_id))
        for step, index in enumerate(lots):
            batch = Batch(examples.x[index], examples.y[index])
            for name, change in plan.batch:
                batch = change(batch, LocalContext(client, round_, step, streams[name], start, previous, lr))
            gradient = self._gradient(flat, plan, batch, numbers)
            drawn = plan.gradient.noise(gradient.numel(), numbers, noise)
            if drawn is not None:
                gradient = gradient + flat.inward(drawn.to(gradient))
            if decay:
                gradient = gradient + decay * flat.flat
            if velocity is not None:
                gradient = velocity.mul_(momentum).add_(gradient)
            with torch.no_grad():
                flat.flat.add_(gradient, alpha=-lr)
                for name, change_row in plan.step:
                    context = LocalContext(client, round_, step, streams[name], start, previous, lr)
                    flat.flat.copy_(flat.inward(change_row(flat.outward(flat.flat), context)))
        flat.difference(broadcast.row, out)
        if work.buffers is not None:
            work.buffers[client_id].copy_(torch.cat([b.reshape(-1) for b in float_buffers(flat.module)]))

    def _gradient(self, flat: FlatModule, plan: LocalPlan, batch: Batch, numbers: Mapping[str, float]) -> Tensor:
        flat.grad.zero_()
        if plan.gradient.eager(flat.module, plan.loss, batch, numbers):
            return flat.grad
        parameters = {name: p.detach() for name, p in flat.parameters.items()}
        tensors = {name: torch.tensor(value, dtype=self.work.dtype, device=self.work.device) for name, value in numbers.items()}
        grads = plan.gradient.grads(pure_loss(flat.module, plan), parameters, batch, tensors)
        return flat.inward(torch.cat([grads[s.name].reshape(-1) for s in flat.trained]))


def _seed(number: int, device: torch.device) -> None:
    """Seed what the module itself draws from, such as its dropout."""
    torch.default_generator.manual_seed(number)
    if device.type == "cuda":
        torch.cuda.manual_seed(number)


def _placed(examples: Examples, device: torch.device, channels_last: bool) -> Examples:
    x, y = examples.x.to(device), examples.y.to(device)
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    return Examples(x, y, examples.groups)


@final
class Sequential(Strategy):
    """One client after the other, in this process."""

    name = "sequential"

    def __init__(self, work: Work) -> None:
        # As in the workers: dropout draws in the order in which its input lies in memory.
        self.learner = Learner(work, channels_last=True)

    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        rows = torch.zeros(len(clients), broadcast.layout.size, dtype=broadcast.row.dtype, device=broadcast.row.device)
        with torch.random.fork_rng(devices=[rows.device] if rows.is_cuda else []):
            for k, client in enumerate(clients):
                own = broadcast.to(client)
                out = rows[k] if own.layout is broadcast.layout else torch.zeros_like(own.row)
                self.learner.train(own, client, group, round_, out)
                if out is not rows[k] and own.layout is not broadcast.layout:
                    raise ValueError("clients of one broadcast must share its layout")
        return rows
