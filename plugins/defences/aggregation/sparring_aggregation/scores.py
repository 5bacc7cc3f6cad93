"""Krum's scores, choices by them, and the release of rows that were chosen; only the release waits for the device."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.cohort import Cohort
from sparring.signals import Release

ROUNDING = 64 * torch.finfo(torch.float64).eps
TIE = 1e-9


def others(cohort: Cohort) -> tuple[Tensor, Tensor]:
    """Squared distances [n, n] between rows, infinite on the diagonal, and the place [n] of each: in the order of client ids.

    In that order the first of tied rows is that of the smallest id, as in the paper. Distances that are rounding errors are 0,
    so that rows which are there several times tie.
    """
    n, device = len(cohort), cohort.base.device
    ids = range(n) if cohort.ids is None else cohort.ids
    by_id = torch.tensor(sorted(range(n), key=ids.__getitem__), dtype=torch.long).to(device, non_blocking=True)
    square = cohort.gram.diagonal()
    distances = (cohort.distances + cohort.distances.T) / 2
    distances = distances.masked_fill(distances <= ROUNDING * (square[:, None] + square[None, :]), 0).fill_diagonal_(torch.inf)
    return distances.index_select(0, by_id).index_select(1, by_id), by_id


def nearest(distances: Tensor, k: int) -> Tensor:
    """Sum of the ``k`` smallest entries of each row of ``distances`` [n, n]: [n]."""
    return distances.sort(dim=1).values[:, :k].sum(dim=1)


def first(scores: Tensor) -> Tensor:
    """The place [1] of the least of ``scores`` [n], the first of those that differ by rounding alone; NaN counts as least."""
    known = scores.nan_to_num(-1, posinf=torch.finfo(scores.dtype).max)
    least = known.amin()
    return (known <= least + TIE * least.abs()).to(torch.uint8).argmax()[None]


def picked(cohort: Cohort, chosen: Tensor, vector: Tensor | None = None) -> Release:
    """The mean of the rows at ``chosen`` [m], or ``vector`` that was made of them; its total is m, the others are excluded."""
    n, m = len(cohort), len(chosen)
    kept = torch.zeros(n, dtype=torch.float64, device=cohort.base.device).index_fill_(0, chosen, 1.0)
    if vector is None:
        vector = cohort.combine(kept / m)
    behind = kept if cohort.mix is None else (kept[:, None] * (cohort.mix != 0)).amax(0)
    flags = torch.cat([kept, behind]).tolist()
    excluded = () if cohort.ids is None else tuple(i for i, keep in zip(cohort.ids, flags, strict=False) if not keep)
    return Release(vector, cohort.layout, float(m), int(sum(flags[n:])), excluded)


def nothing(cohort: Cohort) -> Release:
    """The release of an empty cohort: zeros of total weight 0."""
    return Release(cohort.rows.sum(0), cohort.layout, 0.0, 0)
