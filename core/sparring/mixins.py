"""Mixins: what an instance of any role may be besides; core asks for the class, never for a method by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparring.context import Setup
    from sparring.objectives import Objective
    from sparring.signals import Examples


class Stateful(ABC):
    """Whatever changes over rounds. ``state`` holds tensors, numbers, strings and nested mappings of these."""

    @abstractmethod
    def state(self) -> Mapping[str, Any]:
        """Everything that a fresh instance needs to continue; clients' state is keyed by ``str(id)``."""

    @abstractmethod
    def restore(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state``."""


class Targeted(ABC):
    """An attack with an objective that the backdoor and subgroup games can measure; one layer of it says which."""

    @abstractmethod
    def objective(self, test: Examples, ctx: Setup) -> Objective:
        """What the attack wants of the released model, on ``test`` examples or inputs of its own; asked once, before round 0.

        Laws: changes no state; draws from ``ctx`` alone, the layer's own; inputs have the shape and range of the test's.
        """


class Sizing(ABC):
    """A layer over cohorts that minds how many rows it is given, or hands on another number of them."""

    @abstractmethod
    def admit(self, n: int) -> int:
        """How many rows go on where ``n`` come in; raises `ConfigError` where it cannot take ``n``. Asked before the run."""
