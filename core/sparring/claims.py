"""Claims and mechanism events: what a layer promises, and the record from which a privacy accountant computes epsilon."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sparring.facts import Unit

Neighbours = Literal["add-remove", "replace-one"]


@dataclass(frozen=True)
class GaussianEvent:
    """``steps`` releases of a sum with sensitivity 1 plus N(0, noise_multiplier^2 I), each on a Poisson sample at ``rate``.

    A plugin emits events, never an epsilon: an accountant composes the events of each client over the rounds.
    """

    noise_multiplier: float
    unit: Unit
    rate: float = 1.0
    steps: int = 1
    neighbours: Neighbours = "add-remove"

    def __post_init__(self) -> None:
        if self.noise_multiplier < 0 or not 0 <= self.rate <= 1 or self.steps < 0:
            raise ValueError(f"{self}: noise_multiplier and steps must be at least 0, rate between 0 and 1")


@dataclass(frozen=True)
class LaplaceEvent:
    """One release of a value of L1 sensitivity 1 plus Laplace noise of scale ``scale``: pure DP with epsilon 1/scale."""

    scale: float
    unit: Unit
    neighbours: Neighbours = "add-remove"


Event = GaussianEvent | LaplaceEvent


@dataclass(frozen=True)
class Formal:
    """A theorem holds: the mechanism's events, accounted per ``unit``. Against whom is derived by core."""

    mechanism: str
    unit: Unit

    kind = "formal"

    def __str__(self) -> str:
        return f"formal: {self.mechanism}, per {self.unit}"


@dataclass(frozen=True)
class Heuristic:
    """An argument, not a theorem; ``reason`` is the argument."""

    reason: str

    kind = "heuristic"

    def __str__(self) -> str:
        return f"heuristic: {self.reason}"


@dataclass(frozen=True)
class Empirical:
    """A measured value in a named run against a named attack."""

    metric: str
    value: float
    interval: tuple[float, float] | None
    attack: str
    run: str

    kind = "empirical"

    def __str__(self) -> str:
        spread = f" [{self.interval[0]:.3g}, {self.interval[1]:.3g}]" if self.interval else ""
        return f"empirical: {self.metric} {self.value:.3g}{spread} against {self.attack}"


Claim = Formal | Heuristic
"""What a signature may declare; `Empirical` claims come from runs."""
