"""Robust learning rate: coordinates on whose direction clients do not agree are stepped backwards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparring.aggregate import Sum, WeightedMean
from sparring.context import Round
from sparring.errors import ConfigError
from sparring.roles import StreamingAggregator
from sparring.signals import Release, Updates
from sparring_update_analysis.configs import RLRConfig

WIDTH = 1 << 16
"""Columns whose signs are formed at once."""


@dataclass(frozen=True)
class Votes:
    """The weighted sum of the rows, and the sum [p] of the signs of their parameters."""

    sum: Sum
    signs: Tensor


@final
class RobustLearningRate(StreamingAggregator[Votes]):
    r"""The weighted mean of the rows, negated in each coordinate j on whose sign the clients do not agree.

    $$\Delta_j = \eta_j \frac{\sum_i w_i \Delta_{ij}}{\sum_i w_i}, \quad
    \eta_j = 1 \text{ if } \left| \sum_i \mathrm{sign}(\Delta_{ij}) \right| \ge \theta, \text{ else } -1$$

    Weights are numbers of examples, each client has one vote; numbers of exactly 0 have none. Buffers are averaged as they are.
    Folds blocks, and never holds the cohort. Its norm is the mean's: rows of norm at most C give a release of norm at most C. n
    = 0: a zero release of total weight 0. Fewer than $\theta$ rows could agree on nothing, and everything would be negated:
    raises `ConfigError`. Numbers that are not finite come out as NaN or infinity.

    Source: Ozdayi, Kantarcioglu and Gel: Defending against Backdoors in Federated Learning with Robust Learning Rate, AAAI
    2021, 2007.03767.
    """

    def __init__(self, config: RLRConfig) -> None:
        self.config = config
        self.mean = WeightedMean()

    def init(self, updates: Updates) -> Votes:
        return Votes(self.mean.init(updates), updates.rows.new_zeros(updates.layout.parameters, dtype=torch.float32))

    def add(self, accumulator: Votes, updates: Updates) -> Votes:
        parts = [block.sign().sum(dim=0, dtype=torch.float32) for block in updates.params.split(WIDTH, dim=1)]
        return Votes(self.mean.add(accumulator.sum, updates), accumulator.signs + torch.cat(parts))

    def merge(self, left: Votes, right: Votes) -> Votes:
        return Votes(self.mean.merge(left.sum, right.sum), left.signs + right.signs)

    def finish(self, accumulator: Votes, ctx: Round) -> Release:
        n, theta = accumulator.sum.clients, self.config.theta
        if 0 < n < theta:
            raise ConfigError(
                f"'rlr' with theta = {theta} got n = {n} updates; it needs theta <= n: lower theta, or sample more clients"
            )
        mean = self.mean.finish(accumulator.sum, ctx)
        return mean.with_params(torch.where(accumulator.signs.abs() < theta, -mean.params, mean.params))
