"""How a cohort trains: what a strategy is given, and what it returns."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sparring.groups import HONEST

if TYPE_CHECKING:
    from sparring.keys import Key
    from sparring.layout import Layout
    from sparring.local import LocalPlan
    from sparring.signals import Broadcast, ClientData, Examples, ModelPlan
    from sparring.views import LocalSettings


@dataclass(frozen=True)
class Work:
    """What stays the same over a run's rounds: model, data, settings, and one local plan for each group of clients.

    ``buffers``: where BatchNorm statistics stay with the clients, each client's own, in shared memory. ``clean``: what clients
    whose data an attack changed train on in rounds outside its window, in which they belong to the honest group.
    """

    plan: ModelPlan
    layout: Layout
    data: ClientData
    plans: Mapping[str, LocalPlan]
    settings: LocalSettings
    key: Key
    device: torch.device
    dtype: torch.dtype = torch.float32
    buffers: Mapping[int, Tensor] | None = None
    clean: ClientData | None = None

    def examples(self, client: int, group: str) -> Examples:
        """What a client trains on as a member of ``group``."""
        if self.clean is not None and group == HONEST and client in self.clean.clients:
            return self.clean.clients[client]
        return self.data.clients[client]


class Strategy(ABC):
    """Trains clients from a broadcast. Every strategy gives the same rows, within float tolerance."""

    name: str

    @abstractmethod
    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        """Rows ``[n, d]`` of the clients' updates, on the work's device."""

    def close(self) -> None:
        """Release processes and memory; safe to call twice."""
        return
