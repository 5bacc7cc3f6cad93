"""Standardisation with the training part's own mean and deviation."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from sparring.signals import Examples


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
