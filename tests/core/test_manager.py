"""Registration refuses what would silently not run, or run twice, and says who offers it in which version."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any, final

import pytest

from sparring.context import Context, Round
from sparring.errors import PluginError
from sparring.hookspecs import hookimpl
from sparring.manager import Manager, distribution_specs, run_manager
from sparring.registry import Entry
from sparring.roles import Aggregator, Defence, StreamingAggregator, Trainer
from sparring.signals import Cohort, Release, Updates
from sparring.sites import Site
from tests.core.federation import defence

ENTRY = Entry("defences", "halve", "sparring_halve.plugin", "sparring-halve", "1.2")
HALVE = defence("halve", Site.UPDATE, lambda signal, ctx: signal)


@final
class Marked(Defence[Updates]):
    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        return signal


@final
class Unmarked(Defence[Updates]):
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        return signal


@final
class Misspelt(Defence[Updates]):
    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        return signal

    @hookimpl
    def attack_transfrom(self, signal: Updates, ctx: Context) -> Updates:
        return signal


@final
class Narrowed(Defence[Updates]):
    @hookimpl
    def defence_transform(self, signal: Updates) -> Updates:  # type: ignore[override]
        return signal


@final
class Widened(Defence[Updates]):
    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context, extra: int) -> Updates:  # type: ignore[override]
        return signal


@final
class Rule(Aggregator):
    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        raise NotImplementedError


@final
class Streaming(StreamingAggregator[int]):
    def init(self, updates: Updates) -> int:
        return 0

    def add(self, accumulator: int, updates: Updates) -> int:
        return 0

    def merge(self, left: int, right: int) -> int:
        return 0

    def finish(self, accumulator: int, ctx: Round) -> Release:
        raise NotImplementedError

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        raise NotImplementedError


@final
class Protocol(Trainer):
    @hookimpl
    def client_update(self, task: Any, ctx: Round) -> Updates:
        raise NotImplementedError

    def apply(self, state: Any, release: Release) -> Any:
        return state


def admitted(*plugins: tuple[object, str, str]) -> Manager:
    manager = run_manager()
    for plugin, name, owner in plugins:
        manager.admit(plugin, name, owner)
    return manager


def test_a_marked_hook_is_registered_and_found() -> None:
    instance = Marked()
    manager = admitted((instance, "halve", "sparring-halve 1.2"))
    assert manager.implementation("defence_transform", "halve").__self__ is instance  # type: ignore[attr-defined]


def test_two_instances_of_one_class_are_two_plugins() -> None:
    manager = admitted((Marked(), "a", "x 1"), (Marked(), "b", "x 1"))
    assert manager.implementation("defence_transform", "a") is not manager.implementation("defence_transform", "b")


REFUSED: dict[str, tuple[list[tuple[object, str, str]], str]] = {
    "a hook without its marker": (
        [(Unmarked(), "halve", "sparring-halve 1.2")],
        r"'halve' of sparring-halve 1\.2: Unmarked\.defence_transform is not marked @hookimpl, so it would never run",
    ),
    "an unknown hook": ([(Misspelt(), "halve", "sparring-halve 1.2")], r"'halve' of sparring-halve 1\.2: .*attack_transfrom"),
    "two plugins of one name": (
        [(Marked(), "halve", "sparring-halve 1.2"), (Marked(), "halve", "other 3.4")],
        r"'halve' of other 3\.4 is already registered by sparring-halve 1\.2",
    ),
    "a second aggregator": (
        [(Rule(), "krum", "robust 1.0"), (Rule(), "median", "other 3.4")],
        r"'median' of other 3\.4 is a second aggregator: 'krum' of robust 1\.0 is already there; keep one",
    ),
    "a second aggregator that streams": (
        [(Rule(), "krum", "robust 1.0"), (Streaming(), "mean", "other 3.4")],
        r"'mean' of other 3\.4 is a second aggregator: 'krum' of robust 1\.0",
    ),
    "a second trainer": (
        [(Protocol(), "split", "one 1.0"), (Protocol(), "distil", "two 2.0")],
        r"'distil' of two 2\.0 is a second trainer: 'split' of one 1\.0 is already there; keep one",
    ),
    "a hook with another argument": ([(Widened(), "halve", "sparring-halve 1.2")], r"'halve' of sparring-halve 1\.2: .*extra"),
    "a hook that drops an argument": (
        [(Narrowed(), "halve", "sparring-halve 1.2")],
        r"'halve' of sparring-halve 1\.2: Narrowed\.defence_transform takes \(signal\); it must take \(signal, ctx\)",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_silently_misbehave_is_refused(case: str) -> None:
    plugins, message = REFUSED[case]
    with pytest.raises(PluginError, match=f"(?s){message}"):
        admitted(*plugins)


def module(**members: Any) -> types.ModuleType:
    made = types.ModuleType("sparring_halve.plugin")
    vars(made).update(members)
    return made


def offering(*specs: object) -> Callable[[], tuple[object, ...]]:
    return lambda: specs


def test_a_light_module_offers_its_specs() -> None:
    assert distribution_specs(module(sparring_plugins=hookimpl(offering(HALVE))), ENTRY) == [HALVE]


def test_a_light_module_whose_hook_is_unmarked_is_refused() -> None:
    with pytest.raises(PluginError, match=r"sparring-halve 1\.2: .*sparring_plugins is not marked @hookimpl"):
        distribution_specs(module(sparring_plugins=offering(HALVE)), ENTRY)


def test_a_light_module_with_an_unknown_hook_is_refused() -> None:
    members = {"sparring_plugins": hookimpl(offering(HALVE)), "sparring_plugin": hookimpl(offering(HALVE))}
    with pytest.raises(PluginError, match=r"(?s)sparring-halve 1\.2: .*sparring_plugin"):
        distribution_specs(module(**members), ENTRY)


def test_a_light_module_that_offers_a_name_twice_is_refused() -> None:
    with pytest.raises(PluginError, match=r"sparring-halve 1\.2 offers halve twice among its defences"):
        distribution_specs(module(sparring_plugins=hookimpl(offering(HALVE, HALVE))), ENTRY)
