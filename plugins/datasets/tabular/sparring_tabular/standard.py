"""Standardisation with the training part's own mean and deviation."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from torch import Tensor

from sparring.signals import Column, Examples

CLOSE = 0.319
"""Deviations within which a number is taken for another (Vero et al., ICML 2023, 2210.01785)."""


def standardised(train: Examples, test: Examples) -> tuple[Examples, Examples]:
    """Both parts with features z = (x - mean) / std, mean and std [F] those of the training part; 0 where std is 0.

    The deviation is the population's (divided by N). Computed in float64.
    """
    x = train.x.double()
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0)

    def z(values: Tensor) -> Tensor:
        centred = values.double() - mean
        return (centred / std.where(std > 0, 1.0)).where(std > 0, 0.0).float()

    return replace(train, x=z(train.x)), replace(test, x=z(test.x))


def columns(x: Tensor, names: Sequence[str], categories: Collection[str]) -> tuple[Column, ...]:
    """What the standardised features ``x`` [N, F] are; features that share a name, as a one-hot code's do, are one column."""
    found: list[Column] = []
    for at, name in enumerate(names):
        if at and name == names[at - 1]:
            found[-1] = replace(found[-1], width=found[-1].width + 1)
        else:
            found.append(Column(name, at))
    return tuple(_filled(column, x, column.name in categories) for column in found)


def _filled(column: Column, x: Tensor, category: bool) -> Column:
    own = x[:, column.at : column.at + column.width]
    if category:
        return replace(column, codes=tuple(map(tuple, own.unique(dim=0).tolist())))
    return replace(column, low=float(own.min()), high=float(own.max()), close=CLOSE)
