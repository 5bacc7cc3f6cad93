"""What the server runs in a round, and what clients check of its broadcast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from sparring.context import Context, Round
from sparring.errors import ConfigError
from sparring.hookspecs import hookimpl
from sparring.layout import Layout
from sparring.roles import Aggregator, Defence, StreamingAggregator
from sparring.signals import Broadcast, Cohort, Release, Updates
from sparring_frozen_api1.facts import OnGrid
from sparring_frozen_api1.plugin import BucketsConfig, MedianConfig, SparseConfig


@final
class Watch(Defence[Broadcast]):
    """Clients compare digests of what they were sent; who holds another one refuses (Pasquini et al., CCS 2022, 2111.07380)."""

    @hookimpl
    def defence_transform(self, signal: Broadcast, ctx: Context) -> Broadcast:
        """The broadcast, refused by those whose row is not the common one."""
        assert isinstance(ctx, Round)
        others = [client for client in ctx.cohort if not torch.equal(signal.to(client).row, signal.row)]
        return signal.refuse(*others) if others else signal


@final
class Twins(Defence[Cohort]):
    """Of clients at one point of the grid, the one of the least id is kept (after Fung et al., RAID 2020, 1808.04866)."""

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The cohort without copies: two points of the grid lie at least a step apart."""
        step = next((f.step for f in ctx.facts if isinstance(f, OnGrid) and f.step is not None), None)
        if step is None or signal.ids is None:
            raise ConfigError(f"'{ctx.layer}' needs rows on a grid, each with its client; put frozen-round before it")
        ids = torch.tensor(signal.ids)
        twin = (signal.distances < (step / 2) ** 2).to(ids.device) & (ids[None, :] < ids[:, None])
        alone = ~twin.any(dim=1)
        return signal if bool(alone.all()) else signal.select(alone.nonzero()[:, 0])


@final
class Buckets(Defence[Cohort]):
    """Rows in random order, replaced by the means of s neighbours (Karimireddy, He and Jaggi, ICLR 2022, 2006.09365)."""

    def __init__(self, config: BucketsConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Cohort:
        """The cohort of ceil(m / s) means; no pass over the data."""
        m, s = len(signal), self.config.size
        if m == 0 or s == 1:
            return signal
        order = torch.randperm(m, generator=ctx.generator())
        mix = torch.zeros(-(-m // s), m, dtype=torch.float64)
        for k, part in enumerate(order.split(s)):
            mix[k, part] = 1 / len(part)
        return signal.mixed(mix.to(signal.base.device))


@final
class Sparse(Defence[Release]):
    """The largest numbers of each trained tensor stay, the others become 0 (Shokri and Shmatikov, CCS 2015)."""

    def __init__(self, config: SparseConfig) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Release, ctx: Context) -> Release:
        """The sparse release."""
        del ctx
        params = signal.params.clone()
        for segment in signal.layout.segments:
            if segment.role == "parameter":
                part = params[segment.start : segment.stop]
                count = max(1, int(self.config.keep * len(part)))
                least = part.abs().topk(count).values[-1]
                params[segment.start : segment.stop] = torch.where(part.abs() < least, 0.0, part)
        return signal.with_params(params)


@final
class GeometricMedian(Aggregator):
    """argmin_z sum_i |z - x_i|, by Weiszfeld steps in coefficients (Pillutla, Kakade and Harchaoui 2022, 1912.13445)."""

    def __init__(self, config: MedianConfig) -> None:
        self.config = config

    def admit(self, n: int) -> None:
        """Raise `ConfigError` where f clients are not fewer than half."""
        if n < 2 * self.config.f + 1:
            raise ConfigError(f"frozen-median: f is {self.config.f}, which {n} clients do not bear; at most {(n - 1) // 2}")

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        """The median of the rows; they count alike."""
        n, gram = len(cohort), cohort.gram
        if n == 0:
            return Release(torch.zeros(cohort.layout.size).to(cohort.base), cohort.layout, 0.0, 0)
        self.admit(n)
        a = torch.full((n,), 1 / n, dtype=torch.float64, device=gram.device)
        floor = 1e-6 * float(cohort.distances.median().sqrt()) + 1e-30
        for k in range(self.config.steps):
            square = gram.diagonal() - 2 * (gram @ a) + a @ gram @ a
            a = 1 / square.clamp(min=0).sqrt().clamp(min=floor)
            a = a / a.sum()
            ctx.progress("geometric median", k / self.config.steps)
        return Release(cohort.combine(a), cohort.layout, float(n), n)


@dataclass(frozen=True)
class Sums:
    """Weighted sum [d] in float64, the sum of weights, the number of clients."""

    vector: Tensor
    total: float
    clients: int
    layout: Layout
    dtype: torch.dtype


@final
class ExactMean(StreamingAggregator[Sums]):
    """sum_i w_i x_i / sum_i w_i in float64 (McMahan et al., AISTATS 2017, 1602.05629)."""

    def init(self, updates: Updates) -> Sums:
        zero = torch.zeros(updates.layout.size, dtype=torch.float64, device=updates.rows.device)
        return Sums(zero, 0.0, 0, updates.layout, updates.rows.dtype)

    def add(self, accumulator: Sums, updates: Updates) -> Sums:
        n = len(updates.ids)
        weights = torch.ones(n).double() if updates.weights is None else updates.weights.double()
        vector = accumulator.vector + weights.to(accumulator.vector) @ updates.rows.double()
        total = accumulator.total + float(weights.sum())
        return Sums(vector, total, accumulator.clients + n, updates.layout, updates.rows.dtype)

    def merge(self, left: Sums, right: Sums) -> Sums:
        vector = left.vector + right.vector
        return Sums(vector, left.total + right.total, left.clients + right.clients, left.layout, left.dtype)

    def finish(self, accumulator: Sums, ctx: Round) -> Release:
        del ctx
        mean = accumulator.vector / accumulator.total if accumulator.total else accumulator.vector
        return Release(mean.to(accumulator.dtype), accumulator.layout, accumulator.total, accumulator.clients)
