"""Spot checks: with ``checked: true``, declared facts are tested on the run's own signals, and a layer that lied is named."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from sparring.errors import EffectError
from sparring.facts import Clipped, Fact, Identified, Space, Weighted
from sparring.signals import Updates

ORDERS = {"l1": 1.0, "l2": 2.0, "linf": torch.inf}
TOLERANCE = 1e-4


def check_updates(layer: str, before: Updates, after: Updates, facts: Iterable[Fact]) -> None:
    """Test the facts that hold behind ``layer`` on its output; raises `EffectError` that names layer, fact and value."""
    sealed = after.layout.space.kind == "sealed"
    for fact in facts:
        if sealed and isinstance(fact, Clipped | Weighted):
            continue  # true of what is inside, which nobody sees here
        problem = _problem(fact, before, after)
        if problem:
            raise EffectError(f"'{layer}' declares {fact}, which does not hold behind it: {problem}; its declaration is wrong")


def _problem(fact: Fact, before: Updates, after: Updates) -> str | None:
    if isinstance(fact, Clipped) and fact.unit == "client" and fact.bound is not None and fact.norm is not None:
        return _longest(after.params, ORDERS[fact.norm], fact.bound)
    if isinstance(fact, Space) and fact.kind is not None and after.layout.space.kind != fact.kind:
        return f"its rows are in the space {after.layout.space.kind}"
    if isinstance(fact, Space) and fact.kind == "real" and not bool(torch.isfinite(after.rows).all()):
        return "its rows hold NaN or Inf"
    if isinstance(fact, Identified) and not set(after.ids) <= set(before.ids):
        return f"clients {sorted(set(after.ids) - set(before.ids))[:3]} appeared"
    if isinstance(fact, Weighted) and after.weights is None:
        return "its rows carry no weights"
    return None


def _longest(rows: Tensor, order: float, bound: float) -> str | None:
    if not rows.numel():
        return None
    norm = float(torch.linalg.vector_norm(rows, order, dim=1).max())
    return f"a row has norm {norm:.6g}" if norm > bound * (1 + TOLERANCE) else None
