"""Contexts: what a layer is told about where it stands, beside its payload."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparring.keys import Key
from sparring.views import Message

if TYPE_CHECKING:
    from sparring.claims import Event
    from sparring.facts import Fact
    from sparring.lab import Lab
    from sparring.layout import Layout
    from sparring.signals import Cohort, Examples, Release, Updates

SERVER = "server"


@dataclass
class Wire:
    """Carries protocol messages between halves: applies the drop schedule, counts bytes, records sizes and times.

    ``lost(stage, client)`` is the schedule: whether this client's message of this stage never arrives. A client that was lost
    at one stage is lost at all later stages of the round.
    """

    round: int
    lost: Callable[[str, int], bool]
    gone: set[int] = field(default_factory=set)
    messages: list[Message] = field(default_factory=list)
    started: float = field(default_factory=time.perf_counter)
    mail: dict[str, list[object]] = field(default_factory=dict, repr=False)

    def up(self, stage: str, sizes: Mapping[int, int]) -> tuple[int, ...]:
        """Clients send messages of ``sizes`` bytes; returns the ids whose message arrived, in order."""
        arrived: list[int] = []
        for client, size in sizes.items():
            if client not in self.gone and self.lost(stage, client):
                self.gone.add(client)
            if client not in self.gone:
                arrived.append(client)
                self._record(f"client-{client}", SERVER, stage, size)
        return tuple(arrived)

    def down(self, stage: str, sizes: Mapping[int, int]) -> None:
        """The server sends messages of ``sizes`` bytes to clients."""
        for client, size in sizes.items():
            self._record(SERVER, f"client-{client}", stage, size)

    def post(self, stage: str, payload: object) -> None:
        """One half of a protocol leaves ``payload`` for its other half; it lasts for this round, and no view shows it."""
        self.mail.setdefault(stage, []).append(payload)

    def collect(self, stage: str) -> tuple[object, ...]:
        """Everything that was posted for ``stage`` in this round, in order, once."""
        return tuple(self.mail.pop(stage, ()))

    def _record(self, sender: str, receiver: str, stage: str, size: int) -> None:
        seconds = time.perf_counter() - self.started
        self.messages.append(Message(self.round, sender, receiver, stage, size, seconds))

    def totals(self) -> tuple[int, int]:
        """Bytes up and bytes down."""
        up = sum(m.size for m in self.messages if m.receiver == SERVER)
        return up, sum(m.size for m in self.messages) - up


@dataclass(frozen=True)
class Round:
    """Where a layer stands: round ``index`` of ``rounds``, its own ``layer`` name, and what core grants it.

    ``parameters``: the state's row [d] at the start of the round. ``facts``: those that hold where the layer stands, with
    their numbers. ``benign``: the honest rows [m, d], and ``honest``: the same with their clients and weights, only where the
    threat model grants ``Knows(benign-updates)``. ``aggregate``: what the server would release of a cohort, by the run's own
    COHORT layers and rule and without trace, only with ``Knows(aggregator)``. ``public``: the public data, where there are any.
    ``lab``: training beside the run; attacks have it with ``Knows(recipe)``. ``secure``: cryptographic bytes.
    """

    index: int
    rounds: int
    key: Key
    wire: Wire
    layer: str = ""
    parameters: Tensor | None = None
    layout: Layout | None = None
    facts: tuple[Fact, ...] = ()
    cohort: tuple[int, ...] = ()
    benign: Tensor | None = None
    aggregate: Callable[[Cohort], Release] | None = None
    emit: Callable[[Event, Sequence[int]], None] = lambda event, clients: None
    progress: Callable[[str, float], None] = lambda text, fraction: None
    secure: Callable[[int], bytes] = secrets.token_bytes
    honest: Updates | None = None
    public: Examples | None = None
    lab: Lab | None = None

    def at(self, layer: str, facts: tuple[Fact, ...] = ()) -> Round:
        """The context of ``layer``."""
        return replace(self, layer=layer, facts=facts, lab=None if self.lab is None else self.lab.called(layer))

    def generator(self, client: int | None = None, device: torch.device | str = "cpu") -> torch.Generator:
        """The stream of this layer in this round, of one client where given."""
        path: tuple[str | int, ...] = ("round", self.index, "layer", self.layer)
        return self.key.child(*path, *(() if client is None else ("client", client))).generator(device)


@dataclass(frozen=True)
class Setup:
    """The context of what runs once, before the first round: MODEL, DATA, LOCAL, and passive attacks afterwards.

    ``public``: the public data, where there are any. ``lab``: training beside the run, from DATA on; attacks have it with
    ``Knows(recipe)``.
    """

    key: Key
    layer: str = ""
    facts: tuple[Fact, ...] = ()
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    progress: Callable[[str, float], None] = lambda text, fraction: None
    public: Examples | None = None
    lab: Lab | None = None

    def at(self, layer: str, facts: tuple[Fact, ...] = ()) -> Setup:
        """The context of ``layer``."""
        return replace(self, layer=layer, facts=facts, lab=None if self.lab is None else self.lab.called(layer))

    def generator(self, client: int | None = None, device: torch.device | str = "cpu") -> torch.Generator:
        """The stream of this layer, of one client where given."""
        path: tuple[str | int, ...] = ("setup", "layer", self.layer)
        return self.key.child(*path, *(() if client is None else ("client", client))).generator(device)


Context = Round | Setup
