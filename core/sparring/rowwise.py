"""Products and norms of rows [n, d], in one pass over columns: what aggregators know of a cohort before they touch it again."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 16
"""Columns that are held at once, fewer where there are many rows: `ENTRIES` numbers at most."""
ENTRIES = 1 << 21
BATCH = 1 << 11
"""Columns whose products are summed in the rows' own precision; those sums are added in float64."""
KEPT = 1e-2
"""Share of its terms that a squared distance must keep, or the origin is subtracted first: two digits may cancel, no more."""


def products(rows: Tensor, origin: Tensor | int | None = None, dtype: torch.dtype | None = None) -> Tensor:
    """Inner products [n, n], float64, of the rows minus ``origin``: a vector [d], one of the rows by its index, or zero.

    In ``dtype``: by default in float32, or better where the rows are, and anew in float64 should that overflow. The origin is
    subtracted first, except a row's whose products about zero tell the same and do not cancel.
    """
    wide = torch.promote_types(rows.dtype, torch.float32) if dtype is None else dtype
    found = None
    if isinstance(origin, int) and dtype is None:
        found = _about(_products(rows, None, wide), origin)
    found = _products(rows, origin, wide) if found is None else found
    if wide != torch.float64 and not bool(found.isfinite().all()):
        return _products(rows, origin, torch.float64)
    return found


def norms(rows: Tensor, origin: Tensor | None = None) -> Tensor:
    """L2 norms [n], float64, of the rows minus ``origin`` [d] (None: zero): roots of the diagonal of `products`."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    found = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for block in _apart(rows, origin, wide):
        found += torch.linalg.vector_norm(block, dim=2).double().square().sum(dim=0)
    if wide != torch.float64 and not bool(found.isfinite().all()):
        found = _products(rows, origin, torch.float64).diagonal()
    return found.sqrt()


def along(rows: Tensor, vector: Tensor) -> Tensor:
    """Inner products [n], float64 throughout, of the rows with ``vector`` [d]."""
    found = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for at in _spans(*rows.shape):
        found += rows[:, at].double() @ vector[at].double()
    return found


def _about(products: Tensor, row: int) -> Tensor | None:
    """``products`` [n, n] about a row, from those about zero; None where another row lies so near that they cancel."""
    cross, length = products[row], products[row, row]
    found = products - cross[:, None] - cross[None, :] + length
    kept = found.diagonal() >= KEPT * (products.diagonal() + length)
    kept[row], found[row], found[:, row] = True, 0, 0
    return found if bool(kept.all()) else None


def _products(rows: Tensor, origin: Tensor | int | None, dtype: torch.dtype) -> Tensor:
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in _apart(rows, origin, dtype):
        found += torch.bmm(block, block.mT).sum(dim=0, dtype=torch.float64)
    return found


def _apart(rows: Tensor, origin: Tensor | int | None, dtype: torch.dtype) -> Iterator[Tensor]:
    """Batches [b, n, c] of the rows minus ``origin``, in ``dtype``; each is valid until the next."""
    if origin is None and rows.dtype == dtype:
        yield from (_batched(rows[:, at]) for at in _spans(*rows.shape))
        return
    point = rows[origin] if isinstance(origin, int) else origin
    held: Tensor | None = None  # made once: fresh pages would cost as much again
    for at in _spans(*rows.shape):
        held = rows.new_empty(len(rows), at.stop - at.start, dtype=dtype) if held is None else held
        block = held[:, : at.stop - at.start].copy_(rows[:, at])
        yield _batched(block if point is None else block.sub_(point[at].to(dtype)))


def _spans(n: int, d: int) -> Iterator[slice]:
    """Spans of columns, at most `CHUNK` or what `ENTRIES` numbers hold of ``n`` rows: whole batches, and then the rest."""
    width = max(1, min(CHUNK, ENTRIES // max(n, 1)) // BATCH) * BATCH
    whole = d // BATCH * BATCH
    yield from (slice(at, min(at + width, whole)) for at in range(0, whole, width))
    if whole < d:
        yield slice(whole, d)


def _batched(block: Tensor) -> Tensor:
    """Columns [n, c] as batches [b, n, `BATCH`], or as one where they are fewer."""
    return block.unflatten(1, (-1, BATCH)).transpose(0, 1) if block.shape[1] % BATCH == 0 else block[None]
