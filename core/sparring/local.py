"""LocalPlan: what happens inside a client's training step, as slots in the order in which they run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sparring.errors import ConfigError

if TYPE_CHECKING:
    from sparring.claims import Event

Params = Mapping[str, Tensor]
Numbers = Mapping[str, float]


@dataclass(frozen=True)
class Client:
    """A client as its own training sees it: id, number of examples, batch size and the number of steps of a round."""

    id: int
    size: int
    batch_size: int
    steps: int
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Batch:
    """Inputs [B, ...] and targets [B, ...] of one step; ``mask`` [B] is 1 for real rows and 0 for padding."""

    x: Tensor
    y: Tensor
    mask: Tensor | None = None

    def mean(self, losses: Tensor) -> Tensor:
        """Mean of per-example ``losses`` [B] over the real rows (0 for an empty batch)."""
        if self.mask is None:
            return losses.sum() / max(losses.shape[0], 1)
        return (losses * self.mask).sum() / self.mask.sum().clamp(min=1)


@dataclass(frozen=True)
class LocalContext:
    """Where a step stands: client, round, step, and the client's generator for this layer (CPU).

    ``start``: the parameter row [p] that was broadcast. ``previous``: the one of the round before, the same in the first round;
    every participant can know both. ``lr``: the step size of the client's optimiser.
    """

    client: Client
    round: int
    step: int
    generator: torch.Generator
    start: Tensor | None = None
    previous: Tensor | None = None
    lr: float = 0.0


Forward = Callable[[Tensor], Tensor]
LossFn = Callable[[Forward, Batch], Tensor]
BatchFn = Callable[[Batch, LocalContext], Batch]
StepFn = Callable[[Tensor, LocalContext], Tensor]
PureLoss = Callable[[Params, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Functional:
    """The forward pass of ``module`` with ``tensors`` in place of its own parameters and buffers."""

    module: nn.Module
    tensors: Mapping[str, Tensor]

    def __call__(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(self.module, dict(self.tensors), (inputs,))
        return outputs


def embed(forward: Forward, inputs: Tensor) -> tuple[Tensor, Tensor]:
    """The input [B, k] of the last linear layer, and the outputs [B, K]: one forward pass, for losses on representations.

    ``forward``: a module, or what a loss is handed. Raises `ConfigError` where the model has no linear layer.
    """
    module = forward.module if isinstance(forward, Functional) else forward
    layers = [m for m in module.modules() if isinstance(m, nn.Linear)] if isinstance(module, nn.Module) else []
    if not layers:
        raise ConfigError("representations are the input of a model's last linear layer; this model has none: choose another")
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    try:
        outputs = forward(inputs)
    finally:
        handle.remove()
    return seen[-1].flatten(1), outputs


def cross_entropy(forward: Forward, batch: Batch) -> Tensor:
    """Cross-entropy per example, [B]; for dense targets the mean over positions."""
    losses = F.cross_entropy(forward(batch.x), batch.y, reduction="none")
    return losses.flatten(1).mean(1) if losses.dim() > 1 else losses


class Sampler(ABC):
    """Chooses the examples of each step."""

    @abstractmethod
    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        """Index tensors, one a step, ``client.steps`` of them; lots may differ in size and be empty."""

    @abstractmethod
    def largest(self, client: Client) -> int:
        """A size that no lot exceeds: what a stacked strategy pads to."""


class Shuffled(Sampler):
    """Batches without replacement from a fresh permutation each epoch."""

    def batches(self, client: Client, generator: torch.Generator) -> Iterator[Tensor]:
        done = 0
        while done < client.steps and client.size:
            order = torch.randperm(client.size, generator=generator)
            for batch in order.split(client.batch_size):
                if done == client.steps:
                    return
                yield batch
                done += 1

    def largest(self, client: Client) -> int:
        return min(client.batch_size, client.size)


class GradientRule(ABC):
    """Turns a batch into a gradient. ``grads`` is the definition: pure, functional, vmappable over clients."""

    def numbers(self, client: Client) -> Numbers:
        """Per-client numbers (bounds, expected lots, noise scales), stacked over clients for ``grads`` and ``noise``."""
        del client
        return {}

    @abstractmethod
    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The gradient of one step by parameter name; ``loss(params, x, y)`` gives per-example losses [B]."""

    def eager(self, module: nn.Module, loss: LossFn, batch: Batch, numbers: Numbers) -> bool:
        """Optional fast path: leave the same gradient in ``.grad``, which is zero on entry, and return True."""
        del module, loss, batch, numbers
        return False

    def noise(self, size: int, numbers: Numbers, generator: torch.Generator) -> Tensor | None:
        """Noise [size] to add to the gradient, drawn outside any ``vmap``; None where there is none."""
        del size, numbers, generator
        return None

    def event(self, client: Client) -> Event | None:
        """The mechanism event that one round of this client's training emits."""
        del client
        return None


class MeanGradient(GradientRule):
    """The gradient of the mean loss over the batch: plain SGD."""

    def grads(self, loss: PureLoss, params: Params, batch: Batch, numbers: Mapping[str, Tensor]) -> dict[str, Tensor]:
        del numbers
        gradient: dict[str, Tensor] = torch.func.grad(lambda p: batch.mean(loss(p, batch.x, batch.y)))(dict(params))
        return gradient

    def eager(self, module: nn.Module, loss: LossFn, batch: Batch, numbers: Numbers) -> bool:
        del numbers
        batch.mean(loss(module, batch)).backward()
        return True


@dataclass(frozen=True)
class Exchange:
    """Split learning's traffic inside a step: smashed data up, the server's part, gradients down."""

    up: Callable[[Tensor, LocalContext], Tensor]
    server: Callable[[Tensor, Tensor | None, LocalContext], Tensor]
    down: Callable[[Tensor, LocalContext], Tensor]


@dataclass(frozen=True)
class LocalPlan:
    """Slots in execution order. ``sampler`` and ``gradient`` have one owner each; the others accumulate or wrap.

    ``batch`` functions change the batch, ``loss`` gives per-example losses, ``step`` functions change the parameter row [p]
    after the optimiser. Random slots draw from the named generator of their layer.
    """

    sampler: Sampler = field(default_factory=Shuffled)
    batch: tuple[tuple[str, BatchFn], ...] = ()
    loss: LossFn = cross_entropy
    exchange: Exchange | None = None
    gradient: GradientRule = field(default_factory=MeanGradient)
    gradient_owner: str = "gradient"
    step: tuple[tuple[str, StepFn], ...] = ()

    def with_sampler(self, sampler: Sampler) -> LocalPlan:
        """The plan with another sampler."""
        return replace(self, sampler=sampler)

    def with_batch(self, name: str, change: BatchFn) -> LocalPlan:
        """The plan that also applies ``change`` to each batch, under the layer's ``name``."""
        return replace(self, batch=(*self.batch, (name, change)))

    def with_loss(self, wrap: Callable[[LossFn], LossFn]) -> LocalPlan:
        """The plan whose loss is ``wrap`` of this one's."""
        return replace(self, loss=wrap(self.loss))

    def with_gradient(self, name: str, rule: GradientRule) -> LocalPlan:
        """The plan with another gradient rule; its noise is drawn from the stream of the layer ``name``."""
        return replace(self, gradient=rule, gradient_owner=name)

    def with_step(self, name: str, change: StepFn) -> LocalPlan:
        """The plan that also applies ``change`` to the parameter row after each step."""
        return replace(self, step=(*self.step, (name, change)))
