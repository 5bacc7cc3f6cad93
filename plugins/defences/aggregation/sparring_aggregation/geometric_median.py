"""The geometric median."""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from sparring.context import Round
from sparring.hookspecs import hookimpl
from sparring.roles import Aggregator
from sparring.signals import Cohort, Release
from sparring_aggregation.declared import GeometricMedianConfig
from sparring_aggregation.gram import squares
from sparring_aggregation.scores import nothing
from sparring_aggregation.weights import middle


@final
class GeometricMedian(Aggregator):
    r"""$\arg\min_y \sum_i w_i \lVert x_i - y \rVert$, by the smoothed Weiszfeld algorithm (RFA).

    Each of ``steps`` sets $y = \sum_i \beta_i x_i / \sum_i \beta_i$ with $\beta_i = w_i / \max(\nu, \lVert x_i - y \rVert)$.
    $w_i$: the clients' weights, so that it breaks where Byzantine clients hold half of the weight, and weights are what clients
    say; ``weighted=False`` counts clients. All steps run on coefficients of the rows, in Gram space, with one pass for the
    matrix and one for the release; mixed rows are never formed. It starts from a mean in which each row counts inversely to
    its (weighted) median distance to all: from the plain mean, rows at 1e6 would need hundreds of steps to be forgotten; the
    limit does not depend on it. Acts on all columns, buffers too. n = 1: that row. n = 0: a zero release of total weight 0.

    Source: Pillutla, Kakade and Harchaoui, "Robust aggregation for federated learning", IEEE TSP 2022, 1912.13445.
    """

    def __init__(self, config: GeometricMedianConfig) -> None:
        self.config = config

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The geometric median [d] of the rows; its total is the sum of weights."""
        del ctx
        n = len(cohort)
        if n == 0:
            return nothing(cohort)
        given = None if not self.config.weighted else cohort.weights
        weights = torch.ones(n) if given is None else given
        w = weights.to(cohort.base.device, torch.float64, non_blocking=True)
        a = weiszfeld(cohort.gram, w / w.sum(), self.config.nu, self.config.steps)
        return Release(cohort.combine(a), cohort.layout, float(weights.double().sum()), n)


def weiszfeld(gram: Tensor, w: Tensor, nu: float, steps: int) -> Tensor:
    """Coefficients [n] of the geometric median of rows with ``gram`` [n, n] and weights ``w`` [n] of sum 1."""
    square = gram.diagonal()
    ranked, order = (square[:, None] + square[None, :] - 2 * gram).clamp(min=0).sort(dim=1)
    half = middle(w[order])
    typical = torch.where(half > 0, half * ranked, 0).sum(dim=1).sqrt()
    a = w / typical.clamp(min=nu)
    for _ in range(steps):
        a = w / squares(gram, a / a.sum()).sqrt().clamp(min=nu)
    return a / a.sum()
