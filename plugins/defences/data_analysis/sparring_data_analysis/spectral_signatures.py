"""Spectral signatures: poison leaves a trace in the covariance of a class's representations."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence
from sparring.signals import ClientData
from sparring_data_analysis.plugin import SpectralSignaturesConfig
from sparring_data_analysis.shown import highest, kept, lab_of, pooled, removed, represented


def signatures(features: Tensor) -> Tensor:
    r"""$\tau_i = ((R(x_i) - \hat R) \cdot v)^2$ for features [n, k] of one class, v their top right singular vector, centred.

    Nonnegative [n]; 0 where all features are equal. The sign of v does not matter.
    """
    centred = features - features.mean(0)
    v: Tensor = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -1]
    return (centred @ v).square()


@final
class SpectralSignatures(Defence[ClientData]):
    r"""Drops, from each class y, the $\lfloor 1.5\,\varepsilon\,n_y \rfloor$ examples of highest $\tau_i$ (see `signatures`).

    R: the input of the last linear layer of a model that is trained in the lab on all shown data for ``epochs``. $\varepsilon$:
    the largest share of a class's examples that may be poison. That many are dropped of clean classes, too: the filter has a
    price where there is no poison. A client may be left with no example. Raises `ConfigError` for a model without a linear
    layer, and for dense labels.

    Source: Tran, Li and Madry, "Spectral signatures in backdoor attacks", NeurIPS 2018, 1811.00636.
    """

    def __init__(self, config: SpectralSignaturesConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: ClientData, ctx: Context) -> ClientData:
        """The clients' data without the examples of the highest scores of each class."""
        pool = pooled(signal)
        features, _ = represented(lab_of(ctx).train(pool, self.config.epochs), pool.x)
        keep = torch.ones(len(pool), dtype=torch.bool)
        for members in (torch.nonzero(pool.y == c)[:, 0] for c in range(signal.shape.classes)):
            scores = signatures(features[members]) if len(members) else features.new_zeros(0)
            keep[members[highest(scores, removed(self.config.eps, len(members)))]] = False
        return kept(signal, keep)
