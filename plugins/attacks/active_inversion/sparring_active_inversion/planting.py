"""Planting: a layer before the model that clients are sent, under names of its own, so that core can cut it off again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, final

import torch
from torch import Tensor, nn

from sparring.errors import ConfigError
from sparring.layout import Layout
from sparring.signals import Broadcast, ModelPlan

PARTS = ("weight", "bias", "map")


def planted(signal: Broadcast, name: str, tensors: Mapping[str, Tensor]) -> Broadcast:
    """The broadcast of a model with a layer before it: x + map(relu(weight x + bias)) in place of x.

    ``weight`` [k, D] acts on the flattened input, ``bias`` is [k]. ``map`` is [D, k], or [D] where all neurons go the same way
    and their sum counts. The layer's parameters are the model's own, named ``<name>_weight`` and so on; all others keep names
    and values. What single clients were to be sent is planted too. Raises `ConfigError` where the name is taken.
    """
    names = {f"{name}_{part}": tensors[part] for part in PARTS}
    taken = [s.name for s in signal.layout.segments if s.name in names]
    if taken:
        raise ConfigError(f"the model that clients are sent has a parameter '{taken[0]}' already; name its attack once")
    layout = _layout(signal.layout, names)
    plan = _plan(signal.plan, name, tuple(tuple(t.shape) for t in names.values()))

    def sent(row: Tensor) -> Tensor:
        held = {**signal.layout.split(row), **names}
        return torch.cat([held[s.name].reshape(-1).to(row) for s in layout.segments])

    others = {client: planted(own, name, tensors) for client, own in signal.overrides.items()}
    return replace(signal, plan=plan, row=sent(signal.row), layout=layout, overrides=others)


def _layout(layout: Layout, added: Mapping[str, Tensor]) -> Layout:
    """In the order of `nn.Module.named_parameters`: the model's own, the added ones, those of its submodules."""
    parts = [(s.name, s.shape, s.role) for s in layout.segments]
    own, deeper = ([p for p in parts if ("." in p[0]) == deep] for deep in (False, True))
    return Layout.build([*own, *((name, tuple(t.shape), "parameter") for name, t in added.items()), *deeper], layout.space)


@lru_cache(maxsize=16)
def _plan(plan: ModelPlan, name: str, shapes: tuple[tuple[int, ...], ...]) -> ModelPlan:
    """One plan per shape: strategies build and copy modules anew for each plan that they meet."""

    def plant(module: nn.Module) -> nn.Module:
        for part, shape in zip(PARTS, shapes, strict=True):
            module.register_parameter(f"{name}_{part}", nn.Parameter(torch.zeros(shape)))
        module.register_forward_pre_hook(_Before(name))
        return module

    return plan.adapted(plant, f"a layer '{name}' before the model")


@final
class _Before:
    """What a planted layer makes of the inputs, before the model's own forward pass."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> tuple[Tensor]:
        x: Tensor = args[0]
        weight, bias, out = (getattr(module, f"{self.name}_{part}") for part in PARTS)
        active = torch.relu(x.flatten(1) @ weight.T + bias)
        added = active.sum(1, keepdim=True) * out if out.dim() == 1 else active @ out.T
        return (x + added.reshape(x.shape),)


__all__ = ["planted"]
