"""An accountant, a host and an engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, final

import torch
from torch import Tensor

from sparring.claims import Event, GaussianEvent
from sparring.context import Round, Setup
from sparring.errors import ConfigError
from sparring.registry import require
from sparring.roles import Accountant, Engine, Host, StackRef
from sparring.signals import Broadcast, Cohort, Release
from sparring.specs import AggregatorSpec, DefenceSpec
from sparring.strategies import Strategy, Work
from sparring.train import Sequential


@final
class ZCDP(Accountant):
    """rho = sum of 1 / (2 sigma^2), epsilon = rho + 2 sqrt(rho ln 1/delta) (Bun and Steinke, TCC 2016, 1605.02065).

    A Laplace event of scale b is 1/b-DP, hence 1/(2 b^2)-zCDP. Sampling amplifies, so leaving it out never costs too little.
    """

    def epsilon(self, events: Sequence[tuple[Event, int]], delta: float) -> float:
        """The epsilon at ``delta``; raises `ConfigError` for events without noise."""
        rho = 0.0
        for event, count in events:
            if isinstance(event, GaussianEvent):
                times, scale = count * event.steps * (event.rate > 0), event.noise_multiplier
            else:
                times, scale = count, event.scale
            if times and scale <= 0:
                raise ConfigError(f"frozen-zcdp: {event} has no noise, hence no epsilon")
            rho += times / (2 * scale**2) if times else 0.0
        return rho + 2 * math.sqrt(rho * math.log(1 / delta))


@final
class Enclave(Host):
    """Builds the stack a second time from names and configurations, and hands it every cohort."""

    def open(self, stack: StackRef, ctx: Setup) -> Callable[[Cohort, Round], Release]:
        """What forwards a cohort; raises `PluginError` for names that are not installed."""
        layers: list[tuple[str, Any]] = []
        rules: list[Any] = []
        for k, (name, _, options) in enumerate(stack):
            spec = require(name, ("defences", "aggregators"))[0]
            config = spec.config.model_validate(dict(options))
            if isinstance(spec, DefenceSpec):
                layers += [(name, layer.build(config)) for layer in spec.layers]
            elif isinstance(spec, AggregatorSpec):
                rules.append(spec.build(config))
            ctx.progress(f"rebuilding {name}", k / len(stack))
        (rule,) = rules

        def forward(cohort: Cohort, ctx: Round) -> Release:
            for name, layer in layers:
                cohort = layer.defence_transform(cohort, ctx.at(name, ctx.facts))
            release: Release = rule.server_aggregate(cohort, ctx)
            return release

        return forward


@final
class LastFirst(Strategy):
    """One client after the other, the last one first."""

    name = "frozen-turns"

    def __init__(self, work: Work) -> None:
        self.inner: Strategy | None = Sequential(work)
        self.work = work

    def train(self, broadcast: Broadcast, clients: Sequence[int], group: str, round_: int) -> Tensor:
        """Rows in the order that was asked for."""
        inner = self.inner or Sequential(self.work)
        return torch.flip(inner.train(broadcast, list(reversed(clients)), group, round_), [0])

    def close(self) -> None:
        """Let go of the module."""
        self.inner = None


@final
class Turns(Engine):
    """Offers `LastFirst`."""

    def strategy(self, work: Work, ctx: Setup) -> Strategy:
        """The strategy that trains what ``work`` describes."""
        del ctx
        return LastFirst(work)
