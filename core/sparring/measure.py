"""Measuring: what each layer did and took, what mechanisms spent, what travelled; a layer that must act has to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from sparring.claims import Event
from sparring.context import Round
from sparring.errors import EffectError
from sparring.live import Live
from sparring.signals import Broadcast, Cohort, Updates
from sparring.spotcheck import check_updates
from sparring.verdicts import Detections

SAMPLED_COLUMNS = 4096


@dataclass
class Cost:
    """What one layer did and took over a run."""

    seconds: float = 0.0
    change: float = 0.0
    rounds: int = 0
    acted: int = 0


@dataclass
class Books:
    """What a run keeps count of: mechanism events per client, cost per layer, verdicts against the truth, bytes, rejections."""

    events: dict[int, dict[Event, int]] = field(default_factory=dict)
    costs: dict[str, Cost] = field(default_factory=dict)
    detections: Detections = field(default_factory=Detections)
    up: int = 0
    down: int = 0
    aborted: int = 0
    rejected: int = 0
    excluded: int = 0

    def charge(self, event: Event, clients: Sequence[int]) -> None:
        """One occurrence of ``event`` for each of ``clients``."""
        for client in clients:
            own = self.events.setdefault(client, {})
            own[event] = own.get(event, 0) + 1


def measured(live: Live, signal: Any, ctx: Round, books: Books, view: Callable[[Any], Tensor] | None) -> Any:
    """Apply a layer, and record its time and its relative change on sampled columns."""
    cost = books.costs.setdefault(live.name, Cost())
    begun = time.perf_counter()
    after = live.transform(signal, ctx.at(live.name, live.facts))
    cost.seconds += time.perf_counter() - begun
    cost.rounds += 1
    if type(after) is not type(signal):
        raise EffectError(f"'{live.name}' returned {type(after).__name__}, it must return {type(signal).__name__}")
    if live.behind and isinstance(after, Updates):
        check_updates(live.name, signal, after, live.behind)
    change = _change(signal, after, view)
    if change is not None:
        cost.change += change
    acted = change is None or change > 0
    cost.acted += acted
    if live.layer.acts == "always" and not acted:
        raise EffectError(f"'{live.name}' declares that it always acts, and changed nothing in round {ctx.index}")
    return after


def _change(before: Any, after: Any, view: Callable[[Any], Tensor] | None) -> float | None:
    """Relative L2 change, 0 only where nothing changed; None where the two cannot be compared."""
    if after is before or (isinstance(after, Cohort) and _same(before, after)):
        return 0.0
    if view is None or (isinstance(after, Broadcast) and _addressed(before) != _addressed(after)):
        return None
    x, y = view(before), view(after)
    if x.shape != y.shape or x.dtype != y.dtype or not x.numel() or getattr(before, "ids", None) != getattr(after, "ids", None):
        return None
    step = max(1, x.shape[1] // SAMPLED_COLUMNS)
    sample, changed = x[:, ::step].double(), y[:, ::step].double()
    moved = float((changed - sample).norm()) / max(float(sample.norm()), 1e-30)
    return moved if moved > 0 else 0.0 if torch.equal(x, y) else 1e-30


def _same(before: Cohort, after: Cohort) -> bool:
    """Whether two cohorts stand for the same rows, weights and clients, as far as that shows without forming them."""
    pairs = ((before.base, after.base), (before.mix, after.mix), (before.weights, after.weights))
    equal = (x is y or (x is not None and y is not None and torch.equal(x, y)) for x, y in pairs)
    return before.ids == after.ids and before.layout == after.layout and all(equal)


def _addressed(broadcast: Broadcast) -> tuple[Any, ...]:
    """What of a broadcast its row does not show: the model, whom it is for, and who is sent something else."""
    return id(broadcast.plan), broadcast.refused, {client: id(own) for client, own in broadcast.overrides.items()}
