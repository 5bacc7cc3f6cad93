"""Live layers: configured instances of a cell's defences and attacks, admitted to the run's plugin manager."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sparring.context import Setup
from sparring.errors import ConfigError, EffectError
from sparring.facts import Fact
from sparring.groups import whom
from sparring.keys import Key
from sparring.manager import Manager
from sparring.resolve import Chosen, Resolved
from sparring.roles import SITES, Targeted
from sparring.signals import ClientData
from sparring.sites import Site
from sparring.specs import Layer

Transform = Callable[[Any, Any], Any]
TARGETED = ("backdoor", "subgroup")
"""Games that need an attack to say what it wants."""
UNRECORDED = ("activation", "logits", "trace")
"""Views that the contract describes and no recorder writes: an attack on one is refused before anything is trained."""


@dataclass(frozen=True)
class Live:
    """A configured layer: where it acts, the callable, the facts that hold where it stands.

    ``behind``: the facts that hold behind it, to be spot-checked; empty unless the experiment asks for that.
    """

    name: str
    site: Site
    layer: Layer[Any]
    instance: Any
    transform: Transform
    facts: tuple[Fact, ...]
    behind: tuple[Fact, ...] = ()


@dataclass(frozen=True)
class LiveAttack:
    """A configured attack: its active layers, its reader, and the clients that it holds or watches.

    ``window``: the first and the last round in which its layers act; None: all. ``targeted``: the layer that says what it
    wants.
    """

    chosen: Chosen
    active: tuple[Live, ...]
    read: Transform | None
    clients: tuple[int, ...]
    window: tuple[int, int] | None = None
    targeted: Live | None = None

    def acts_in(self, index: int) -> bool:
        """Whether its layers act in round ``index``."""
        return self.window is None or self.window[0] <= index <= self.window[1]

    @property
    def label(self) -> str:
        return self.chosen.label


def _live(name: str, layer: Layer[Any], owner: Chosen, manager: Manager, hook: str, facts: tuple[Fact, ...]) -> Live:
    instance = layer.build(owner.config)
    sites = SITES.get(getattr(instance, "signal", type(None)), ())
    if layer.site not in sites:
        raise ConfigError(
            f"'{name}' of {owner.origin} declares {layer.site.label}, but its class acts at {[s.label for s in sites]}"
        )
    manager.admit(instance, name, owner.origin)
    return Live(name, layer.site, layer, instance, manager.implementation(hook, name), facts)


def live_layers(resolved: Resolved, manager: Manager) -> tuple[Live, ...]:
    """The defence layers of a cell that type-checks, in the order of its steps."""
    by_name = {placed.name: placed for placed in resolved.layers}
    found = []
    for k, step in enumerate(resolved.report.steps):
        if step.name in by_name:
            placed = by_name[step.name]
            facts, behind = (tuple(held.fact for held in resolved.report.trail[j].values()) for j in (k, k + 1))
            live = _live(step.name, placed.layer, placed.owner, manager, "defence_transform", facts)
            found.append(replace(live, behind=behind) if resolved.file.checked else live)
    return tuple(found)


def live_attack(chosen: Chosen, resolved: Resolved, manager: Manager, key: Key) -> LiveAttack:
    """An attack with the clients that it is given."""
    spec: Any = chosen.spec
    active = []
    for layer in spec.layers:
        name = f"{chosen.label}/{layer.site.name.lower()}" if len(spec.layers) > 1 or spec.reader else chosen.label
        active.append(_live(name, layer, chosen, manager, "attack_transform", ()))
    read = None
    if spec.reader is not None:
        view = resolved.sights[chosen.label].view
        if view in UNRECORDED:
            raise ConfigError(f"'{chosen.label}' would read the {view} view, which nothing in this core records yet; drop it")
        manager.admit(spec.reader.build(chosen.config), chosen.label, chosen.origin)
        read = manager.implementation("attack_observe", chosen.label)
    holds = any(live.site.client_side for live in active)
    targeted = [live for live in active if isinstance(live.instance, Targeted)]
    if len(targeted) != (spec.game in TARGETED):
        raise ConfigError(
            f"'{chosen.label}' of {chosen.origin} plays the {spec.game} game with {len(targeted)} layers that say what it "
            f"wants; {' and '.join(TARGETED)} need one, other games none"
        )
    clients = whom(chosen, resolved, holds, key)
    return LiveAttack(chosen, tuple(active), read, clients, _window(chosen, resolved, active), next(iter(targeted), None))


def _window(chosen: Chosen, resolved: Resolved, active: Sequence[Live]) -> tuple[int, int] | None:
    asked, rounds = chosen.window, resolved.file.federation.rounds
    if asked is None:
        return None
    where = f"attacks.{chosen.label}.window"
    if not active:
        raise ConfigError(f"{where} is {asked!r}, but '{chosen.label}' only reads; its own options say which rounds")
    if not (isinstance(asked, list | tuple) and len(asked) == 2 and all(type(k) is int for k in asked)):
        raise ConfigError(f"{where} is {asked!r}; it must be [first, last], two round numbers")
    first, last = asked
    if not 0 <= first <= last < rounds:
        raise ConfigError(f"{where} is {asked!r}; rounds are 0 to {rounds - 1}, the first not after the last")
    return first, last


def applied(live: Live, signal: Any, setup: Setup) -> Any:
    """What a layer that runs once makes of ``signal``; a layer that always acts must change it."""
    after = live.transform(signal, setup.at(live.name, live.facts))
    if type(after) is not type(signal):
        raise EffectError(f"'{live.name}' returned {type(after).__name__}, it must return {type(signal).__name__}")
    if live.layer.acts == "always" and _same(signal, after):
        raise EffectError(f"'{live.name}' declares that it always acts, and changed nothing")
    return after


def _same(before: Any, after: Any) -> bool:
    if not isinstance(before, ClientData):
        return bool(before == after)
    parts = [(before.clients[i], after.clients[i]) for i in before]
    return all(a is b or (torch.equal(a.x, b.x) and torch.equal(a.y, b.y)) for a, b in parts)
