"""Clipping of a cohort's rows, lazily."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.errors import NumericalError
from sparring.signals import Cohort


def clip(cohort: Cohort, name: str, bound: Tensor | float, to: Tensor | float) -> Cohort:
    """The cohort with rows longer than ``bound`` scaled to length ``to``; itself where no row is. Copies no row.

    Raises `NumericalError` for a row that is not finite.
    """
    norms = cohort.norms
    over = norms > bound
    if not bool(norms.isfinite().all()):
        bad = (~norms.isfinite()).nonzero()[:, 0].tolist()
        whose = f"row {bad[0]}" if cohort.ids is None else f"the update of client {cohort.ids[bad[0]]}"
        raise NumericalError(
            f"'{name}': {whose} holds NaN or Inf (of {len(bad)} such rows); a row must be finite to be clipped: "
            "lower the learning rate"
        )
    return cohort.scaled(torch.where(over, to / norms, 1.0)) if bool(over.any()) else cohort
