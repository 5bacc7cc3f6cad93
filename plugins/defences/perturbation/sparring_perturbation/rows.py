"""Parts of rows that are handled at once: blocks of clients, and the columns that share a share or a scale."""

from __future__ import annotations

from collections.abc import Iterator

from sparring.layout import Layout
from sparring_perturbation.plugin import Per

BUDGET = 1 << 22
"""Numbers of a block of rows: bounds the memory of ranks and draws, whatever the number of clients."""


def blocks(n: int, width: int) -> Iterator[slice]:
    """Slices of ``n`` rows of ``width`` numbers that hold `BUDGET` numbers at most, or one row."""
    size = max(1, BUDGET // max(width, 1))
    yield from (slice(at, min(at + size, n)) for at in range(0, n, size))


def spans(layout: Layout, per: Per) -> list[slice]:
    """The parameter columns as a whole, or tensor by tensor; without those of no width."""
    if per == "update":
        return [slice(0, layout.parameters)] if layout.parameters else []
    return [slice(s.start, s.stop) for s in layout.segments if s.role == "parameter" and s.stop > s.start]
