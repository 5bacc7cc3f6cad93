"""Python objects in place of plugin names: any module factory as a model, any dataset object as data."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, final

from torch import nn

from sparring.errors import ConfigError
from sparring.facts import PerExample
from sparring.roles import Dataset, Model
from sparring.signals import DataShape
from sparring.signature import ALL, Signature
from sparring.specs import API, DatasetSpec, Empty, ModelSpec, Spec


@final
class Factory(Model):
    """A model from a factory; one that takes an argument is given the `DataShape`."""

    def __init__(self, factory: Callable[..., nn.Module]) -> None:
        self.factory = factory

    def module(self, shape: DataShape) -> nn.Module:
        module = self.factory(shape) if _takes_argument(self.factory) else self.factory()
        if not isinstance(module, nn.Module):
            raise ConfigError(f"the model factory returned {type(module).__name__}; it must return a torch.nn.Module")
        return module


def _takes_argument(factory: Callable[..., Any]) -> bool:
    import inspect

    parameters = inspect.signature(factory).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def as_plugin(kind: str, given: Any) -> Spec[Any] | None:
    """A spec around an object, or None where ``given`` names a plugin.

    A factory's model is granted `PerExample` only if none of its layers mixes the examples of a batch.
    """
    if isinstance(given, str | dict):
        return None
    if kind == "dataset" and isinstance(given, Dataset):
        return DatasetSpec(
            api=API,
            name=type(given).__name__.lower(),
            config=Empty,
            summary="given as an object",
            build=lambda _: given,
            licence="the user's own",
            source="given as an object",
            stands_for="the user's own data",
        )
    if kind == "model" and callable(given):
        return ModelSpec(
            api=API,
            name=getattr(given, "__name__", type(given).__name__).strip("<>"),
            config=Empty,
            summary="given as a factory",
            build=lambda _: Factory(given),
            signature=Signature(gives=() if _mixes(given) else (PerExample(),), keeps=ALL),
        )
    raise ConfigError(f"{kind} is a {type(given).__name__}; give a name, a mapping with a name, or a {kind} object")


def _mixes(factory: Callable[..., nn.Module]) -> bool:
    if _takes_argument(factory):
        return True
    return any(isinstance(child, nn.modules.batchnorm._BatchNorm) for child in factory().modules())
