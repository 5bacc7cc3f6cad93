"""Cohort: the aggregator's view of the updates, lazy in its mixing so that pre-aggregators cost no pass over the data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from sparring import rowwise
from sparring.layout import Layout
from sparring.verdicts import Verdict

REFERENCES_AT_MOST = 2
FAR = 1e4
"""Squared distance from the reference, in median squared distances, beyond which another reference is taken."""
NEAR = 1e-3
"""Distance from the reference, over size, up to which a scaled row is measured from it rather than from the origin."""


class Geometry:
    """Inner products of the rows of a base [n, d], float64: each matrix formed once, in one pass, for all cohorts over it."""

    def __init__(self, base: Tensor) -> None:
        self.base = base

    @cached_property
    def inner(self) -> Tensor:
        """Inner products [n, n] of the rows about the origin."""
        return rowwise.products(self.base, dtype=torch.float64)

    @cached_property
    def norms(self) -> Tensor:
        """L2 norms [n] of the rows."""
        return rowwise.norms(self.base)

    @cached_property
    def centred(self) -> tuple[Tensor, int]:
        """Inner products [n, n] of the rows minus a reference row, and the index of that row.

        Subtracting a reference keeps distances between near-identical rows exact: they would cancel otherwise. The first
        row serves unless it lies far from the crowd, as a row of an attacker may; then the row with the least median distance
        does, in float64 throughout.
        """
        rows, reference = self.base, 0
        if not len(rows):
            return rows.new_zeros(0, 0, dtype=torch.float64), 0
        gram = rowwise.products(rows, 0)
        for _ in range(REFERENCES_AT_MOST):
            square = gram.diagonal()
            spread = (square[:, None] + square[None, :] - 2 * gram).nan_to_num(torch.inf).median(dim=1).values
            best = int(spread.argmin())
            if bool(torch.isfinite(gram).all()) and not bool(square[best] > FAR * spread[best].clamp(min=0)):
                break
            gram, reference = rowwise.products(rows, best, torch.float64), best
        return gram, reference


@dataclass(frozen=True)
class Cohort:
    """Rows ``mix @ base`` of shape [m, d], materialised only when ``rows`` is asked for.

    ``base``: [n, d]. ``mix``: [m, n] or None for the identity. ``weights``: [m] or None. ``ids``: the clients behind the rows,
    None once rows are mixed. ``known_gram``: the Gram matrix [n, n] of the base about a point, where it is at hand. ``sums``:
    what the rows of ``mix`` sum to [m], where they are scaled. ``verdicts``: what analyses thought of the
    clients, in stack order.
    """

    base: Tensor
    layout: Layout
    ids: tuple[int, ...] | None
    weights: Tensor | None = None
    mix: Tensor | None = None
    sources: tuple[int, ...] = ()
    known_gram: Tensor | None = field(default=None, repr=False, compare=False)
    verdicts: tuple[Verdict, ...] = ()
    sums: Tensor | None = field(default=None, repr=False, compare=False)
    shared: Geometry | None = field(default=None, repr=False, compare=False)

    @cached_property
    def geometry(self) -> Geometry:
        """The inner products of the base, shared with the cohorts that this one came from and those made of it."""
        return self.shared if self.shared is not None and self.shared.base is self.base else Geometry(self.base)

    def __len__(self) -> int:
        return int(self.base.shape[0] if self.mix is None else self.mix.shape[0])

    @cached_property
    def rows(self) -> Tensor:
        """The mixed rows ``[m, d]``; forms the product."""
        if self.mix is None:
            return self.base
        if self.mix.numel() and bool(((self.mix != 0).sum(dim=1) <= 1).all()):
            picked = self.mix.abs().argmax(dim=1, keepdim=True)
            return self.base[picked[:, 0]].mul_(self.mix.gather(1, picked).to(self.base.dtype))
        return self.mix.to(self.base.dtype) @ self.base

    @cached_property
    def base_gram(self) -> Tensor:
        return self.geometry.centred[0] if self.known_gram is None else self.known_gram

    @cached_property
    def gram(self) -> Tensor:
        """Gram matrix [m, m], float64, of the rows relative to one point: a base row, times the median of ``sums``."""
        if self.mix is None:
            return self.base_gram
        mix = self.mix.double()
        if self.sums is None or not len(self):
            return mix @ self.base_gram @ mix.T
        return _gram_of_scaled(mix, self.sums, self.geometry)

    @cached_property
    def inner(self) -> Tensor:
        """Inner products [m, m] of the rows about the origin, float64."""
        if self.mix is None:
            return self.geometry.inner
        mix = self.mix.double()
        return mix @ self.geometry.inner @ mix.T

    @cached_property
    def norms(self) -> Tensor:
        """L2 norms [m] of the rows, float64."""
        return self.geometry.norms if self.mix is None else self.inner.diagonal().clamp(min=0).sqrt()

    @cached_property
    def distances(self) -> Tensor:
        """Squared L2 distances [m, m] between rows, float64, exactly 0 on the diagonal."""
        square = self.gram.diagonal()
        distances = (square[:, None] + square[None, :] - 2 * self.gram).clamp_(min=0)
        return distances.fill_diagonal_(0)

    def combine(self, coefficients: Tensor) -> Tensor:
        """``coefficients`` [m] applied to the rows: one vector [d], one pass over the base."""
        a = coefficients if self.mix is None else coefficients.double() @ self.mix.double()
        return a.to(self.base.dtype) @ self.base

    def judged(self, verdict: Verdict) -> Cohort:
        """The cohort with one more verdict."""
        return replace(self, verdicts=(*self.verdicts, verdict))

    def mixed(self, mix: Tensor) -> Cohort:
        """The cohort of rows ``mix @ rows``; rows of ``mix`` [k, m] must sum to 1. No pass over the data."""
        total = mix.double().sum(dim=1)
        if not torch.allclose(total, torch.ones_like(total), atol=1e-6):
            raise ValueError(f"rows of a mix must sum to 1; they sum to {total.min():.4g} .. {total.max():.4g}")
        return replace(self._composed(mix.double()), ids=None, weights=None)

    def scaled(self, factors: Tensor) -> Cohort:
        """The cohort of rows times ``factors`` [m]; identities and weights stay. No pass over the data."""
        own = factors.to(self.base.device, torch.float64)
        sums = own if self.sums is None else own * self.sums
        whole = own.diag() if self.mix is None else own[:, None] * self.mix.double()
        return replace(self, mix=whole, sums=sums, shared=self.geometry)

    def select(self, index: Tensor) -> Cohort:
        """The cohort of the rows at ``index`` [k]; identities stay."""
        ids = None if self.ids is None else tuple(self.ids[k] for k in index.tolist())
        weights = None if self.weights is None else self.weights[index]
        eye = torch.eye(len(self), dtype=torch.float64, device=self.base.device)[index]
        return replace(self._composed(eye), ids=ids, weights=weights)

    def _composed(self, mix: Tensor) -> Cohort:
        whole = mix if self.mix is None else mix @ self.mix.double()
        return replace(self, mix=whole, sums=None if self.sums is None else mix @ self.sums, shared=self.geometry)


def _gram_of_scaled(mix: Tensor, sums: Tensor, geometry: Geometry) -> Tensor:
    r"""Gram matrix [m, m] of rows ``mix @ base`` minus s r: r the reference row, s the median of ``sums``.

    Near the reference, x_i - s r = sum_k mix_ik (b_k - r) + (sums_i - s) r, whose terms are as small as the rows are alike. A
    row that lies far from it for its size, or was tiny and is scaled up, is taken about the origin, where nothing of r cancels.
    """
    (centred, reference), inner, scale = geometry.centred, geometry.inner, sums.median()
    square = inner[reference, reference]
    along = inner[:, reference] - square
    frame = torch.cat([torch.cat([centred, along[:, None]], dim=1), torch.cat([along, square[None]])[None]])
    about = torch.cat([mix, (sums - scale)[:, None]], dim=1)
    plain = mix.clone()
    plain[:, reference] -= scale
    lengths = inner.diagonal().clamp(min=0).sqrt()
    size = mix.abs() @ lengths + scale.abs() * lengths[reference]
    near = mix.abs() @ centred.diagonal().clamp(min=0).sqrt() <= NEAR * size
    return torch.where(near[:, None] & near, about @ frame @ about.T, plain @ inner @ plain.T)
