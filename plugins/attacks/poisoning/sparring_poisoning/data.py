"""What attacks on data share: which examples they change, the attack's own pool, and a surrogate trained on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from sparring.errors import ConfigError
from sparring.objectives import Objective
from sparring.signals import ClientData, Examples

if TYPE_CHECKING:
    from sparring.context import Context, Setup
    from sparring_poisoning.plugin_data import CleanLabelConfig


def drawn(candidates: Tensor, fraction: float, generator: torch.Generator) -> Tensor:
    """A ``fraction`` of the ``candidates`` [m] (at least one, where there is one), drawn without replacement."""
    count = min(len(candidates), max(1, round(fraction * len(candidates))))
    return candidates[torch.randperm(len(candidates), generator=generator)[:count]]


def put(values: Tensor, index: Tensor, new: Tensor) -> Tensor:
    """``values`` [N, ...] with ``new`` at ``index``; the given tensor stays as it was."""
    changed = values.clone()
    changed[index] = new.to(values)
    return changed


def among(labels: tuple[int, ...], classes: int, layer: str) -> None:
    """Raise `ConfigError` where one of ``labels`` is no class."""
    wrong = [label for label in labels if label >= classes]
    if wrong:
        raise ConfigError(f"'{layer}' names class {wrong[0]}; the data have classes 0 to {classes - 1}")


def surrogate(examples: Examples, epochs: int, ctx: Context) -> nn.Module:
    """A model trained in the lab, frozen; raises `ConfigError` where the attack is given none."""
    if ctx.lab is None:
        raise ConfigError(f"'{ctx.layer}' trains a surrogate; grant it in the threat model: knows: [recipe]")
    return ctx.lab.train(examples, epochs).requires_grad_(False)


def limits(x: Tensor) -> tuple[float, float]:
    """The range that inputs must keep: [0, 1], or that of ``x`` where it is wider."""
    return min(0.0, float(x.min())), max(1.0, float(x.max()))


def together(signal: ClientData) -> Examples:
    """The examples of all clients, in the order of their ids; raises `ConfigError` for dense labels."""
    held = [signal.clients[client] for client in sorted(signal)]
    if any(examples.y.dim() != 1 for examples in held):
        raise ConfigError("this attack needs one label for each example; this data set labels positions")
    return Examples(torch.cat([e.x for e in held]), torch.cat([e.y for e in held]))


@dataclass(frozen=True)
class Aim:
    """The inputs ``attacked`` [T, ...] that are withheld, the examples that are ``left``, and which ``bases`` to perturb."""

    attacked: Tensor
    left: ClientData
    pool: Examples
    bases: Tensor

    def perturbed(self, x: Tensor) -> ClientData:
        """The clients' data with inputs ``x`` in place of those of the bases."""
        clients = sorted(self.left)
        parts = put(self.pool.x, self.bases, x).split([len(self.left.clients[c]) for c in clients])
        held: Mapping[int, Examples] = {
            c: replace(self.left.clients[c], x=part) for c, part in zip(clients, parts, strict=True)
        }
        return replace(self.left, clients={c: held[c] for c in self.left})


def aim(signal: ClientData, config: CleanLabelConfig, ctx: Context) -> Aim:
    """Draws inputs of the source class to withhold and attack, and bases of the target class, from the attack's own examples.

    Raises `ConfigError` where its clients hold none of either.
    """
    among((config.source, config.target), signal.shape.classes, ctx.layer)
    pool, generator = together(signal), ctx.generator()
    for label in (config.source, config.target):
        if not bool((pool.y == label).any()):
            raise ConfigError(f"'{ctx.layer}': its clients hold no example of class {label}; name a class that they hold")
    sources = torch.nonzero(pool.y == config.source)[:, 0]
    attacked = sources[torch.randperm(len(sources), generator=generator)[: config.targets]]
    stay = torch.ones(len(pool), dtype=torch.bool)
    stay[attacked] = False
    clients = sorted(signal)
    masks = stay.split([len(signal.clients[c]) for c in clients])
    held = {c: signal.clients[c].take(m) for c, m in zip(clients, masks, strict=True)}
    left = pool.take(stay)
    bases = drawn(torch.nonzero(left.y == config.target)[:, 0], config.fraction, generator)
    return Aim(pool.x[attacked], replace(signal, clients={c: held[c] for c in signal}), left, bases)


def wants(attacked: Tensor | None, config: CleanLabelConfig, test: Examples, ctx: Setup) -> Objective:
    """The attacked inputs as the target class; of an attack that holds no client, test inputs of the source class instead."""
    if attacked is not None:
        return Objective(attacked, torch.full((len(attacked),), config.target))
    index = torch.nonzero(test.y == config.source)[: config.targets, 0]
    if not len(index):
        raise ConfigError(f"'{ctx.layer}' attacks inputs of class {config.source}, of which there is no test example")
    return Objective(test.x[index], torch.full((len(index),), config.target), index)
