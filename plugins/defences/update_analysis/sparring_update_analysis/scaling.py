"""Shortening rows without copying them."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.cohort import Cohort


def shortened(cohort: Cohort, norms: Tensor, bound: Tensor | float) -> Cohort:
    """The cohort whose rows have norm at most ``bound``, where ``norms`` [m] are theirs; the cohort itself where all have.

    Lazily, a few ulps below the bound, so that rounding does not carry a row over it. A factor that the rows' type cannot hold
    counts as 0. Whole rows are scaled, buffers with them.
    """
    longer = norms > bound
    if not bool(longer.any()):
        return cohort
    kind = torch.finfo(cohort.base.dtype)
    factors = torch.where(longer, bound * (1 - 4 * kind.eps) / norms.clamp(min=kind.tiny), 1.0)
    return cohort.scaled(torch.where(factors < kind.tiny, 0.0, factors))
