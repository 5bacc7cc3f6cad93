"""What the attacks share: triggers, poisoned examples, and the objective of a trigger."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Setup
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.objectives import Objective
from sparring.roles import ActiveAttack, Targeted
from sparring.signals import ClientData, DataShape, Examples

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Trigger:
    r"""$T(x) = (1 - m) \odot x + m \odot p$: ``mask`` m in [0, 1] and ``pattern`` p, both of an input's shape.

    Where m is 0 or 1 it is idempotent, and leaves everything outside of m as it is, bit for bit. Inputs in [0, 1] stay there
    where p is. Models normalise inside, so that it acts on inputs as people see them.
    """

    mask: Tensor
    pattern: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """Inputs [B, ...] with the trigger."""
        return torch.lerp(x, self.pattern.to(x), self.mask.to(x))


Make = Callable[[Shape, Context, int | None], Trigger]
"""A trigger for inputs of a shape: the whole, or the part of the client of a rank where it is split over clients."""


def flat(shape: Shape, value: float, layer: str) -> tuple[Tensor, Tensor]:
    """An empty mask for inputs of ``shape`` and a pattern of one ``value``. Raises `ConfigError` where the two do not fit."""
    if len(shape) not in (1, 3):
        raise ConfigError(
            f"'{layer}' sets a trigger into images [C, H, W] or feature vectors [F]; inputs here are {list(shape)}"
        )
    if len(shape) == 3 and not 0 <= value <= 1:
        raise ConfigError(f"'{layer}': value is {value:g}; pixels lie in [0, 1]: choose one of these")
    return torch.zeros(shape), torch.full(shape, value)


def demand_room(needed: int, given: int, what: str, layer: str) -> None:
    """Raise `ConfigError` unless ``given`` pixels or features have room for ``needed``."""
    if needed > given:
        raise ConfigError(f"'{layer}': the trigger needs {needed} {what}, an input has {given}; make it smaller")


def demand_classes(shape: DataShape, layer: str, **classes: int | None) -> None:
    """Raise `ConfigError` unless the task is classification and each of ``classes`` is a class, or None."""
    if shape.task != "classification":
        raise ConfigError(
            f"'{layer}' changes the class of whole inputs; the task here is {shape.task}: choose a data set of classes"
        )
    for name, value in classes.items():
        if value is not None and value >= shape.classes:
            raise ConfigError(f"'{layer}': {name} is {value}; classes here are 0 to {shape.classes - 1}: choose one of them")


def chosen(n: int, fraction: float, generator: torch.Generator) -> Tensor:
    """Positions of round(fraction n) of n examples, at random."""
    return torch.randperm(n, generator=generator)[: round(fraction * n)]


@final
class TriggerPoison(ActiveAttack[ClientData], Targeted):
    r"""$(x, y) \leftarrow (T(x), t)$ for a share of each client's examples, chosen at random whatever their class.

    ``make`` builds T; where it is split, the client of rank k among the attack's clients, by id, poisons with part k. The
    objective is the whole trigger on every test example that is not of the target class t. Round(fraction n) of a client's n
    examples are poisoned: none where that is 0. Group columns stay. Raises `ConfigError` for a trigger that does not fit.
    """

    def __init__(self, make: Make, target: int, fraction: float) -> None:
        self.make, self.target, self.fraction = make, target, fraction

    @hookimpl
    def attack_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """Its clients' data, poisoned."""
        demand_classes(signal.shape, ctx.layer, target=self.target)
        held = {}
        for rank, client in enumerate(sorted(signal)):
            trigger = self.make(signal.shape.inputs, ctx, rank)
            held[client] = self._poisoned(signal.clients[client], trigger, ctx.generator(client))
        return replace(signal, clients={client: held[client] for client in signal})

    def _poisoned(self, examples: Examples, trigger: Trigger, generator: torch.Generator) -> Examples:
        at = chosen(len(examples), self.fraction, generator)
        x, y = examples.x.clone(), examples.y.clone()
        x[at], y[at] = trigger(x[at]), self.target
        return replace(examples, x=x, y=y)

    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """The target class for every test example of another, with the whole trigger."""
        index = (test.y != self.target).nonzero()[:, 0]
        trigger = self.make(tuple(test.x.shape[1:]), ctx, None)
        return Objective(trigger(test.x[index]), torch.full_like(test.y[index], self.target), index)
