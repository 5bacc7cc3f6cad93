"""Cohort: the aggregator's view of the updates, lazy in its mixing so that pre-aggregators cost no pass over the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from sparring.layout import Layout
from sparring.verdicts import Verdict

CHUNK = 1 << 16
REFERENCES_AT_MOST = 2
FAR = 1e4
"""Squared distance from the reference, in median squared distances, beyond which another reference is taken."""


def centred_gram(rows: Tensor) -> Tensor:
    """Gram matrix [n, n] of the rows minus a reference row, accumulated in float64 over column chunks.

    Subtracting a reference keeps distances between near-identical rows exact: they would cancel otherwise. The first row
    serves unless it lies far from the crowd, as a row of an attacker may; then the row with the least median distance does,
    in float64 throughout.
    """
    if not len(rows):
        return rows.new_zeros(0, 0, dtype=torch.float64)
    gram = _gram(rows, 0, torch.promote_types(rows.dtype, torch.float32))
    for _ in range(REFERENCES_AT_MOST):
        square = gram.diagonal()
        spread = (square[:, None] + square[None, :] - 2 * gram).nan_to_num(torch.inf).median(dim=1).values
        best = int(spread.argmin())
        if bool(torch.isfinite(gram).all()) and not bool(square[best] > FAR * spread[best].clamp(min=0)):
            break
        gram = _gram(rows, best, torch.float64)
    return gram


def _gram(rows: Tensor, reference: int, dtype: torch.dtype) -> Tensor:
    n, d = rows.shape
    gram = torch.zeros(n, n, dtype=torch.float64, device=rows.device)
    for at in range(0, d, CHUNK):
        block = rows[:, at : at + CHUNK].to(dtype)
        block = block - block[reference : reference + 1]
        gram += (block @ block.T).double()
    return gram


@dataclass(frozen=True)
class Cohort:
    """Rows ``mix @ base`` of shape [m, d], materialised only when ``rows`` is asked for.

    ``base``: [n, d]. ``mix``: [m, n] or None for the identity. ``weights``: [m] or None. ``ids``: the clients behind the rows,
    None once rows are mixed. ``verdicts``: what analyses thought of the clients, in stack order.
    """

    base: Tensor
    layout: Layout
    ids: tuple[int, ...] | None
    weights: Tensor | None = None
    mix: Tensor | None = None
    sources: tuple[int, ...] = ()
    known_gram: Tensor | None = field(default=None, repr=False, compare=False)
    verdicts: tuple[Verdict, ...] = ()

    def __len__(self) -> int:
        return int(self.base.shape[0] if self.mix is None else self.mix.shape[0])

    @cached_property
    def rows(self) -> Tensor:
        """The mixed rows ``[m, d]``; forms the product."""
        return self.base if self.mix is None else self.mix.to(self.base.dtype) @ self.base

    @cached_property
    def base_gram(self) -> Tensor:
        return centred_gram(self.base) if self.known_gram is None else self.known_gram

    @cached_property
    def gram(self) -> Tensor:
        """Gram matrix [m, m], float64, of the rows relative to a base row (mixes must be affine: rows sum to 1)."""
        if self.mix is None:
            return self.base_gram
        mix = self.mix.double()
        return mix @ self.base_gram @ mix.T

    @cached_property
    def distances(self) -> Tensor:
        """Squared L2 distances [m, m] between rows, float64, exactly 0 on the diagonal."""
        square = self.gram.diagonal()
        distances = (square[:, None] + square[None, :] - 2 * self.gram).clamp_(min=0)
        return distances.fill_diagonal_(0)

    def combine(self, coefficients: Tensor) -> Tensor:
        """``coefficients`` [m] applied to the rows: one vector [d], one pass over the base."""
        a = (
            coefficients.to(self.base.dtype)
            if self.mix is None
            else (coefficients.double() @ self.mix.double()).to(self.base.dtype)
        )
        return a @ self.base

    def judged(self, verdict: Verdict) -> Cohort:
        """The cohort with one more verdict."""
        return replace(self, verdicts=(*self.verdicts, verdict))

    def mixed(self, mix: Tensor) -> Cohort:
        """The cohort of rows ``mix @ rows``; rows of ``mix`` [k, m] must sum to 1. No pass over the data."""
        total = mix.double().sum(dim=1)
        if not torch.allclose(total, torch.ones_like(total), atol=1e-6):
            raise ValueError(f"rows of a mix must sum to 1; they sum to {total.min():.4g} .. {total.max():.4g}")
        whole = mix.double() if self.mix is None else mix.double() @ self.mix.double()
        return replace(self, mix=whole, ids=None, weights=None, known_gram=self.base_gram)

    def select(self, index: Tensor) -> Cohort:
        """The cohort of the rows at ``index`` [k]; identities stay."""
        ids = None if self.ids is None else tuple(self.ids[int(k)] for k in index)
        weights = None if self.weights is None else self.weights[index]
        eye = torch.eye(len(self), dtype=torch.float64, device=self.base.device)[index]
        whole = eye if self.mix is None else eye @ self.mix.double()
        return replace(self, mix=whole, ids=ids, weights=weights, known_gram=self.base_gram)
