"""Gram space: vectors as coefficients a of a cohort's rows, with distances from one Gram matrix and no pass over the data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparring.cohort import Cohort

COLUMNS = 1 << 14
"""Columns of a block: what a core's cache holds of a few dozen rows."""


def squares(gram: Tensor, a: Tensor) -> Tensor:
    r"""$\lVert x_i - \sum_k a_k x_k \rVert^2$ [n] from ``gram`` [n, n] about any origin, for ``a`` [n] of sum 1.

    About the origin itself a may have any sum: the rest of it lies there.
    """
    product = gram @ a
    return (gram.diagonal() - 2 * product + a @ product).clamp(min=0)


def about(cohort: Cohort, origin: Tensor | None) -> Tensor:
    """Gram matrix [n, n], float64, of the cohort's rows minus ``origin`` [d] (None: zero); mixed rows are never formed."""
    gram = _about(cohort.base, origin, torch.promote_types(cohort.base.dtype, torch.float32))
    if not bool(gram.isfinite().all()):
        gram = _about(cohort.base, origin, torch.float64)
    return gram if cohort.mix is None else cohort.mix.double() @ gram @ cohort.mix.double().T


def squares_about(cohort: Cohort, origin: Tensor | None) -> Tensor:
    """The diagonal [n] of `about`; of rows that are not mixed, without the other products."""
    if cohort.mix is not None:
        return about(cohort, origin).diagonal()
    found = _squares_about(cohort.base, origin, torch.promote_types(cohort.base.dtype, torch.float32))
    return found if bool(found.isfinite().all()) else _squares_about(cohort.base, origin, torch.float64)


def _blocks(rows: Tensor, origin: Tensor | None, dtype: torch.dtype) -> Iterator[Tensor]:
    for at in range(0, rows.shape[1], COLUMNS):
        block = rows[:, at : at + COLUMNS].to(dtype)
        yield block if origin is None else block - origin[at : at + COLUMNS].to(dtype)


def _about(rows: Tensor, origin: Tensor | None, dtype: torch.dtype) -> Tensor:
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in _blocks(rows, origin, dtype):
        gram += (block @ block.T).double()
    return gram


def _squares_about(rows: Tensor, origin: Tensor | None, dtype: torch.dtype) -> Tensor:
    found = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for block in _blocks(rows, origin, dtype):
        found += torch.linalg.vecdot(block, block).double()
    return found
