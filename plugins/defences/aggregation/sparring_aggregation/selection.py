"""What rules that pick clients share: an order of rows that is the clients' own, the bound on f, and the mean of a subset."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.errors import ConfigError
from sparring.signals import Cohort, Release


def by_client(cohort: Cohort) -> Tensor:
    """Positions [n] of the rows in ascending order of client ids; as they stand where rows have no ids."""
    ids = range(len(cohort)) if cohort.ids is None else cohort.ids
    return torch.tensor(ids, dtype=torch.long, device=cohort.base.device).argsort()


def admit_minority(name: str, f: int, n: int) -> None:
    """Raise `ConfigError` unless 2f < n."""
    if 2 * f >= n:
        fits = f"set f to at most {(n - 1) // 2}, or sample more clients" if n else "sample more clients"
        raise ConfigError(f"'{name}' with f = {f} got n = {n} updates; it needs 2f < n: {fits}")


def nobody(cohort: Cohort) -> Release:
    """The zero release of total weight 0."""
    return Release(cohort.combine(torch.zeros(len(cohort), device=cohort.base.device)), cohort.layout, 0.0, 0)


def mean_of(cohort: Cohort, kept: Tensor) -> Release:
    """The mean of the rows at ``kept`` [k]; its total is k, and the clients of other rows are excluded."""
    coefficients = torch.zeros(len(cohort), dtype=torch.float64, device=cohort.base.device)
    coefficients[kept] = 1 / len(kept)
    inside = {int(k) for k in kept}
    behind = len(kept) if cohort.mix is None else int((cohort.mix[kept] != 0).any(dim=0).sum())
    excluded = () if cohort.ids is None else tuple(i for k, i in enumerate(cohort.ids) if k not in inside)
    return Release(cohort.combine(coefficients), cohort.layout, float(len(kept)), behind, excluded)


def nearest(distances: Tensor, order: Tensor, k: int) -> Tensor:
    """For each row of ``distances`` [m, n] the positions [m, k] of its least entries; of tied ones, the first in ``order``."""
    return order[distances[:, order].argsort(dim=1, stable=True)[:, :k]]
