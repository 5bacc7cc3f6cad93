"""Gram space: vectors as coefficients a of a cohort's rows, with distances from one Gram matrix and no pass over the data."""

from __future__ import annotations

from torch import Tensor

from sparring import rowwise
from sparring.cohort import Cohort


def squares(gram: Tensor, a: Tensor) -> Tensor:
    r"""$\lVert x_i - \sum_k a_k x_k \rVert^2$ [n] from ``gram`` [n, n] about any origin, for ``a`` [n] of sum 1.

    About the origin itself a may have any sum: the rest of it lies there.
    """
    product = gram @ a
    return (gram.diagonal() - 2 * product + a @ product).clamp(min=0)


def about(cohort: Cohort, origin: Tensor | None) -> Tensor:
    """Gram matrix [n, n], float64, of the cohort's rows minus ``origin`` [d] (None: zero); mixed rows are never formed."""
    if cohort.mix is None:
        return rowwise.products(cohort.base, origin)
    mix = cohort.mix.double()
    if origin is None or cohort.sums is None:  # rows that sum to 1 take the origin with them
        return mix @ rowwise.products(cohort.base, origin) @ mix.T
    cross = mix @ rowwise.along(cohort.base, origin)
    return mix @ rowwise.products(cohort.base) @ mix.T - cross[:, None] - cross[None, :] + rowwise.along(origin[None], origin)


def squares_about(cohort: Cohort, origin: Tensor | None) -> Tensor:
    """The diagonal [n] of `about`; of rows that are not mixed, without the other products."""
    return rowwise.norms(cohort.base, origin).square() if cohort.mix is None else about(cohort, origin).diagonal()
