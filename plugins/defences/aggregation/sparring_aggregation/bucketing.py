"""Bucketing."""

from __future__ import annotations

from typing import final

import torch

from sparring.context import Context
from sparring.hookspecs import hookimpl
from sparring.roles import Defence, Sizing
from sparring.signals import Cohort
from sparring_aggregation.plugin_pre import BucketingConfig
from sparring_aggregation.selection import by_client


@final
class Bucketing(Defence[Cohort], Sizing):
    r"""Averages the rows of random buckets of s clients.

    $$y_b = \frac{1}{|B_b|} \sum_{i \in B_b} x_{\pi(i)}, \quad B_b = \{(b-1)s + 1, \dots, \min(bs, n)\}$$

    $\pi$: a permutation of the clients in ascending order of ids, from the layer's stream, so that the order of rows changes no
    bucket. $\lceil n/s \rceil$ rows come out, without ids and weights; the last is the mean of fewer where s does not divide n;
    the rule behind it must bear f of them. Buckets that are not smaller than the cohort leave one row, the mean. Mixes lazily.
    s = 1 shuffles the rows. n = 0: no rows. A row that is not finite makes all rows NaN where they are formed.

    Source: Karimireddy, He and Jaggi: Byzantine-Robust Learning on Heterogeneous Datasets via Bucketing, ICLR 2022, 2006.09365.
    """

    def __init__(self, config: BucketingConfig) -> None:
        self.config = config

    def admit(self, n: int) -> int:
        """ceil(n/s) rows go on."""
        return -(-n // self.config.s)

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The means [ceil(n/s), d]."""
        n, s = len(signal), self.config.s
        if n == 0:
            return signal
        device = signal.base.device
        shuffled = by_client(signal)[torch.randperm(n, generator=ctx.generator()).to(device)]
        bucket = torch.arange(n, device=device) // s
        mix = torch.zeros(self.admit(n), n, dtype=torch.float64, device=device)
        mix[bucket, shuffled] = 1 / bucket.bincount().double()[bucket]
        return signal.mixed(mix)
