"""Splits drawn from a stream: stratified by class, so that both parts have the classes in the same shares."""

from __future__ import annotations

import torch
from torch import Tensor

from sparring.errors import DataError


def quotas(counts: Tensor, total: int, reserve: int) -> Tensor:
    """How many of each class make up ``total``: n_c total / N, rounded by largest remainder, at most n_c - ``reserve``."""
    ideal = counts.double() * total / float(counts.sum())
    limit = (counts - reserve).clamp(min=0)
    quota = torch.minimum(ideal.floor().to(torch.int64), limit)
    if int(limit.sum()) < total:
        raise DataError(
            f"{total} examples were asked of {int(counts.sum())} in {int((counts > 0).sum())} classes; "
            f"at most {int(limit.sum())} may be taken, so that {reserve} of each class stays"
        )
    while (left := total - int(quota.sum())) > 0:
        open_ = quota < limit
        order = torch.where(open_, ideal - quota, torch.tensor(-torch.inf, dtype=torch.float64)).argsort(
            descending=True, stable=True
        )
        quota[order[: min(left, int(open_.sum()))]] += 1
    return quota


def stratified(y: Tensor, take: int, generator: torch.Generator, reserve: int = 1) -> tuple[Tensor, Tensor]:
    """Indices (rest, taken) with ``take`` taken, both in random order.

    Each class gives its share, to within one example, and keeps at least ``reserve``. Dense targets [N, H, W] are split at
    random. Raises `DataError` where that leaves either part without an example that it must have.
    """
    if not 0 < take <= len(y) - reserve:
        raise DataError(f"{take} examples were asked of {len(y)}; it must be between 1 and {len(y) - reserve}")
    order = torch.randperm(len(y), generator=generator)
    if y.dim() > 1:
        return order[take:], order[:take]
    taken = torch.zeros(len(y), dtype=torch.bool)
    shuffled = y[order]
    for label, quota in enumerate(quotas(torch.bincount(y), take, reserve).tolist()):
        taken[(shuffled == label).nonzero()[:quota, 0]] = True
    return order[~taken], order[taken]


def split(y: Tensor, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices (train, test): stratified, with round(``fraction`` N) examples in test and one of each class or more in train."""
    return stratified(y, max(1, round(fraction * len(y))), generator)


def subset(y: Tensor, limit: int | None, generator: torch.Generator) -> Tensor:
    """Indices of at most ``limit`` examples: a stratified draw, or all in their order where there are no more.

    Takes the same numbers from the generator for every limit, so that a later draw does not depend on it.
    """
    if limit is None or limit >= len(y):
        torch.randperm(len(y), generator=generator)
        return torch.arange(len(y))
    return stratified(y, limit, generator, reserve=0)[1]
