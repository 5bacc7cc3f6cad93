"""What the accountants share: events checked, merged and put in one order."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from sparring.claims import Event, LaplaceEvent
from sparring.errors import ConfigError


@dataclass(frozen=True)
class Ledger:
    """Events of one unit: steps by (rate q, noise multiplier sigma), and counts by Laplace scale, both sorted.

    Null events (rate 0, no steps, infinite noise) are gone. ``broken``: some event adds no noise at all.
    """

    gaussian: tuple[tuple[float, float, int], ...]
    laplace: tuple[tuple[float, int], ...]
    broken: bool

    @property
    def pure(self) -> float:
        """The epsilon of the Laplace events by basic composition, delta 0."""
        return math.fsum(count / scale for scale, count in self.laplace)


def ledger(events: Sequence[tuple[Event, int]], delta: float) -> Ledger:
    """The events with their counts as one ledger; the order of ``events`` does not matter.

    Raises `ConfigError` for a delta outside (0, 1), a negative count, events of several units or neighbouring relations (no
    epsilon speaks of both), and replace-one events below rate 1: their dominating pair is not the one analysed here.
    """
    if not 0 < delta < 1:
        raise ConfigError(f"delta is {delta:g}; it must lie between 0 and 1, well below one over the number of units")
    gaussian: dict[tuple[float, float], int] = {}
    laplace: dict[float, int] = {}
    kinds: set[tuple[str, str]] = set()
    broken = False
    for event, count in events:
        if count < 0:
            raise ConfigError(f"{event} has count {count}; counts must be at least 0")
        kinds.add((event.unit, event.neighbours))
        if isinstance(event, LaplaceEvent):
            broken |= count > 0 and event.scale <= 0
            if count and 0 < event.scale < math.inf:
                laplace[event.scale] = laplace.get(event.scale, 0) + count
            continue
        steps = event.steps * count
        if not steps or not event.rate or math.isinf(event.noise_multiplier):
            continue
        if event.neighbours == "replace-one" and event.rate < 1:
            raise ConfigError(
                f"{event}: replace-one events are accounted at rate 1 only; emit add-remove events for sampled ones"
            )
        broken |= event.noise_multiplier == 0
        key = (event.rate, event.noise_multiplier)
        gaussian[key] = gaussian.get(key, 0) + steps
    if len(kinds) > 1:
        found = ", ".join(f"({unit}, {relation})" for unit, relation in sorted(kinds))
        raise ConfigError(f"events of several units or neighbouring relations: {found}; account each of them by itself")
    return Ledger(
        tuple((q, sigma, steps) for (q, sigma), steps in sorted(gaussian.items())), tuple(sorted(laplace.items())), broken
    )
