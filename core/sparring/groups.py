"""Groups: which clients each attack holds, and which are honest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from sparring.errors import ConfigError
from sparring.keys import Key

if TYPE_CHECKING:
    from sparring.live import LiveAttack
    from sparring.resolve import Chosen, Resolved

HONEST = "honest"


def held_clients(resolved: Resolved, key: Key) -> tuple[int, ...]:
    """The clients in the adversary's hands, in the order in which attacks are given theirs."""
    threat, n = resolved.file.threat_model.compromised, resolved.file.federation.clients
    if threat is None:
        return ()
    if threat.clients is not None:
        wrong = [c for c in threat.clients if not 0 <= c < n]
        if wrong:
            raise ConfigError(f"threat_model.compromised.clients names {wrong[0]}; clients are 0 to {n - 1}")
        return threat.clients
    order = torch.randperm(n, generator=key.child("compromised").generator())
    return tuple(int(c) for c in order[: int((threat.fraction or 0) * n + 1e-9)])


def whom(chosen: Chosen, resolved: Resolved, active: bool, key: Key) -> tuple[int, ...]:
    n, asked = resolved.file.federation.clients, chosen.clients
    pool = held_clients(resolved, key) if active else tuple(range(n))
    if asked in (None, "all", "all-compromised"):
        return pool
    if isinstance(asked, float) and 0 < asked <= 1:
        return pool[: max(1, round(asked * len(pool)))]
    if isinstance(asked, list) and all(isinstance(c, int) and c in pool for c in asked):
        return tuple(asked)
    raise ConfigError(
        f"attacks.{chosen.label}.clients is {asked!r}; it must be 'all', a share in (0, 1], or a list out of {list(pool)}"
    )


def grouped(attacks: Sequence[LiveAttack], clients: int) -> dict[str, tuple[int, ...]]:
    free = set(range(clients))
    groups: dict[str, tuple[int, ...]] = {}
    for attack in attacks:
        if any(live.site.client_side for live in attack.active):
            groups[attack.label] = tuple(sorted(c for c in attack.clients if c in free))
            free -= set(groups[attack.label])
    return {HONEST: tuple(sorted(free)), **groups}
