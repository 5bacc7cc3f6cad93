"""What a model does: its modules in the order in which they run, their shapes, and the functions that they call."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from sparring.errors import ConfigError
from sparring.signals import ModelPlan

Make = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Visit:
    """A module that ran: its name, and the shapes of its first input and of its output, without the batch dimension."""

    name: str
    module: nn.Module
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclass(frozen=True)
class Observed:
    """A plan's model and one forward pass of two zero inputs.

    ``visits``: modules in the order in which they first returned. ``calls``: functions with the innermost module around them.
    """

    model: nn.Module
    visits: tuple[Visit, ...]
    calls: tuple[tuple[str, str], ...]

    def layers(self) -> list[Visit]:
        """Convolutions and linear layers, each once, in the order in which they first ran."""
        return self.of(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

    def of(self, *kinds: type[nn.Module]) -> list[Visit]:
        """The modules of these kinds that ran."""
        return [v for v in self.visits if isinstance(v.module, kinds)]

    def functional(self, functions: Iterable[str], *kinds: type[nn.Module]) -> dict[str, str]:
        """Modules, not of these ``kinds``, that call one of ``functions`` in their own forward pass: name to function."""
        named, wanted = dict(self.model.named_modules()), set(functions)
        return {name: call for name, call in self.calls if call in wanted and not isinstance(named[name], kinds)}


class _Calls(TorchFunctionMode):
    def __init__(self) -> None:
        self.inside: list[str] = []
        self.seen: list[tuple[str, str]] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.inside:
            self.seen.append((self.inside[-1], func.__name__.strip("_")))
        return func(*args, **(kwargs or {}))


def built(plan: ModelPlan) -> nn.Module:
    """A model of the plan; torch's global generator stays as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return plan.factory()


def observe(plan: ModelPlan) -> Observed:
    """Build the plan's model and watch it in evaluation mode."""
    model, calls = built(plan).eval(), _Calls()
    visits: dict[str, Visit] = {}

    def enter(name: str) -> Callable[..., None]:
        return lambda module, args: calls.inside.append(name)

    def leave(name: str) -> Callable[..., None]:
        def note(module: nn.Module, args: Any, output: Any) -> None:
            calls.inside.pop()
            if args and isinstance(args[0], Tensor) and isinstance(output, Tensor):
                visits.setdefault(name, Visit(name, module, tuple(args[0].shape[1:]), tuple(output.shape[1:])))

        return note

    handles = [h for name, m in model.named_modules() for h in _hooked(m, enter(name), leave(name))]
    with torch.no_grad(), torch.random.fork_rng(devices=[]), calls:
        model(torch.zeros(2, *plan.shape.inputs))
    for handle in handles:
        handle.remove()
    return Observed(model, tuple(visits.values()), tuple(calls.seen))


def _hooked(module: nn.Module, before: Callable[..., None], after: Callable[..., None]) -> tuple[Any, Any]:
    return module.register_forward_pre_hook(before), module.register_forward_hook(after)


def described(module: nn.Module) -> str:
    """A module in one line; parts of a sequence are joined by plus signs."""
    parts = list(module.children())
    return " + ".join(described(part) for part in parts) if parts else str(module)


def _put(model: nn.Module, old: nn.Module, new: nn.Module) -> nn.Module:
    """The model with ``new`` wherever it held ``old``, under whatever names."""
    if model is old:
        return new
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if module is old:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, new)
    return model


def replaced(plan: ModelPlan, technique: str, found: Mapping[str, Make], *notes: str) -> ModelPlan:
    """The plan whose model has ``make(old)`` in place of each module in ``found``, and a note on each.

    Replacements are made in the given order after the model was built, so that what they draw of torch's global generator is
    the same in every factory call. Raises `ConfigError` where the model no longer runs, returns another shape, or loses
    parameters that an earlier layer froze.
    """
    said: dict[str, str] = {}

    def change(model: nn.Module) -> nn.Module:
        modules = dict(model.named_modules())
        for name, make in found.items():
            old, before = modules[name], described(modules[name])
            new = make(old)
            model = _put(model, old, new)
            said[name] = f"{technique}: {name or 'the model'}: {before} -> {described(new)}"
        return model

    if not found:
        return replace(plan, notes=(*plan.notes, *notes, f"{technique}: replaced nothing: the model has no module for it"))
    after = plan.adapted(change)
    _fits(plan, built(plan), built(after), technique, list(found))
    return replace(after, notes=(*plan.notes, *said.values(), *notes))


def _fits(plan: ModelPlan, before: nn.Module, after: nn.Module, technique: str, names: list[str]) -> None:
    x = torch.zeros(2, *plan.shape.inputs)
    where = f"'{technique}' replaced {', '.join(names)}"
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        wanted = tuple(before.eval()(x).shape)
        try:
            got = tuple(after.eval()(x).shape)
        except (RuntimeError, ValueError, IndexError) as error:
            raise ConfigError(f"{where}, and the model no longer runs: {error}; choose another option of it") from error
    if got != wanted:
        raise ConfigError(
            f"{where}, and outputs of shape {wanted[1:]} became {got[1:]}; the shape must stay: choose another option"
        )
    lost = sorted(plan.frozen - {name for name, _ in after.named_parameters()})
    if lost:
        raise ConfigError(f"{where}, which takes away what is frozen ({', '.join(lost)}); put the layer that freezes behind it")


def refuse_functional(technique: str, found: Mapping[str, str], what: str) -> None:
    """Raise `ConfigError` where the model calls functions that no replaced module can stand for."""
    if found:
        calls = ", ".join(f"{name or 'the model'} calls {function}" for name, function in found.items())
        raise ConfigError(
            f"'{technique}' replaces modules, but {calls} in a forward method, where no layer can replace it; write {what}"
        )
