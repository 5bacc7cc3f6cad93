"""Saving: everything of a run between two rounds as one tree of tensors and JSON values, and back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from sparring.build import Built
from sparring.claims import Event, GaussianEvent, LaplaceEvent
from sparring.measure import Books, Cost
from sparring.mixins import Stateful
from sparring.signals import State
from sparring.verdicts import Detection

EVENTS: dict[str, type[Event]] = {"GaussianEvent": GaussianEvent, "LaplaceEvent": LaplaceEvent}


def _stateful(built: Built) -> dict[str, Stateful]:
    owned: dict[str, Any] = {live.name: live.instance for live in built.layers}
    owned.update({live.name: live.instance for attack in built.attacks for live in attack.active})
    owned.update({"trainer": built.trainer, "aggregator": built.rule})
    return {name: instance for name, instance in owned.items() if isinstance(instance, Stateful)}


def tree(built: Built, state: State, books: Books, kept: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint holds; ``kept``: what the run itself wants back."""
    counts = {key: value for key, value in vars(books).items() if isinstance(value, int)}
    return {
        "row": state.row,
        "previous": {} if state.previous is None else {"row": state.previous},
        "extras": dict(state.extras),
        "plugins": {name: dict(instance.state()) for name, instance in _stateful(built).items()},
        "buffers": {str(i): row for i, row in (built.work.buffers or {}).items()},
        "events": [
            [client, type(event).__name__, asdict(event), count]
            for client, own in books.events.items()
            for event, count in own.items()
        ],
        "costs": {name: asdict(cost) for name, cost in books.costs.items()},
        "counts": counts,
        "detections": {layer: asdict(found) for layer, found in books.detections.by_layer.items()},
        **kept,
    }


def restore(built: Built, state: State, tree: Mapping[str, Any]) -> tuple[State, Books]:
    """State and books as they were; plugins and clients' buffers are set in place."""
    for name, instance in _stateful(built).items():
        instance.restore(tree["plugins"][name])
    for client, row in (built.work.buffers or {}).items():
        row.copy_(tree["buffers"][str(client)])
    books = Books(**tree["counts"], costs={name: Cost(**cost) for name, cost in tree["costs"].items()})
    for client, kind, fields, count in tree["events"]:
        books.events.setdefault(client, {})[EVENTS[kind](**fields)] = count
    books.detections.by_layer = {layer: Detection(**fields) for layer, fields in tree["detections"].items()}
    return State(state.plan, tree["row"], state.layout, tree["extras"], tree["previous"].get("row")), books
