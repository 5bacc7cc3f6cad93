"""Gram space: vectors as coefficients a of a cohort's rows, with distances from one Gram matrix and no pass over the data."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from sparring.cohort import Cohort

COLUMNS = 1 << 14
"""Columns of a block: what a core's cache holds of a few dozen rows."""
KEPT = 1e-2
"""Share of its terms that a squared distance must have, or it is computed anew: two digits of float32 may cancel, no more."""


def squares(gram: Tensor, a: Tensor) -> Tensor:
    r"""$\lVert x_i - \sum_k a_k x_k \rVert^2$ [n] from ``gram`` [n, n] about any origin, for ``a`` [n] of sum 1.

    About the origin itself a may have any sum: the rest of it lies there.
    """
    product = gram @ a
    return (gram.diagonal() - 2 * product + a @ product).clamp(min=0)


def about(cohort: Cohort, origin: Tensor | None) -> Tensor:
    """Gram matrix [n, n], float64, of the cohort's rows minus ``origin`` [d] (None: zero); mixed rows are never formed."""
    gram = _gram(cohort.base, origin)
    return gram if cohort.mix is None else cohort.mix.double() @ gram @ cohort.mix.double().T


def squares_about(cohort: Cohort, origin: Tensor | None) -> Tensor:
    """The diagonal [n] of `about`; of rows that are not mixed, without the other products."""
    if cohort.mix is not None:
        return about(cohort, origin).diagonal()
    rows, zero = cohort.base, torch.zeros((), dtype=torch.float64, device=cohort.base.device)
    square, cross, length = zero.expand(len(rows)), zero.expand(len(rows)), zero
    for block, part in _blocks(rows, origin):
        square = square + torch.linalg.vector_norm(block, dim=1).double().square()
        if part is not None:
            cross, length = cross + block @ part, length + part @ part
    found = square - 2 * cross + length
    return found if _reliable(found, square + length) else _exact(rows, origin).diagonal()


def _gram(rows: Tensor, origin: Tensor | None) -> Tensor:
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    cross, length = gram[0] if len(rows) else gram.sum(0), gram.sum()
    for block, part in _blocks(rows, origin):
        gram = gram + block @ block.T
        if part is not None:
            cross, length = cross + block @ part, length + part @ part
    square = gram.diagonal()
    found = gram - cross[:, None] - cross[None, :] + length
    return found if _reliable(found.diagonal(), square + length) else _exact(rows, origin)


def _reliable(found: Tensor, terms: Tensor) -> bool:
    """Whether squared distances [n] are finite, and lost at most two digits in the sum of ``terms`` [n]; it waits for them."""
    return bool((found.isfinite() & (found >= KEPT * terms)).all())


def _exact(rows: Tensor, origin: Tensor | None) -> Tensor:
    """The same with the origin subtracted first, in float64: of rows near the origin, and of huge ones."""
    gram = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block, part in _blocks(rows, origin):
        apart = block.double() if part is None else block.double() - part.double()
        gram += apart @ apart.T
    return gram


def _blocks(rows: Tensor, origin: Tensor | None) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Blocks of columns of the rows and of the origin, at least in float32."""
    wide = torch.promote_types(rows.dtype, torch.float32)
    for at in range(0, rows.shape[1], COLUMNS):
        columns = slice(at, at + COLUMNS)
        yield rows[:, columns].to(wide), None if origin is None else origin[columns].to(wide)
