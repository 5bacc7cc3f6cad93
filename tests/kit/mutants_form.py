"""Mutants of the checks of form: packaging, configurations, declarations, purity, state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from pydantic import ConfigDict, Field
from torch import Tensor

from sparring.facts import Clipped
from sparring.roles import (
    Defence,
    Stateful,
)
from sparring.signals import Cohort, Updates
from sparring.signature import Signature
from sparring.specs import (
    Config,
    Empty,
)
from tests.kit.making import Bounded, Made, defence, idle, mutant, shifted, subject

# Packaging


@mutant("light-import")
def _(broken: bool) -> Made:
    return subject(defence(idle), "sparring.layout" if broken else "sparring.specs")


@mutant("kebab-name")
def _(broken: bool) -> Made:
    return replace(defence(idle), name="Layer_1" if broken else "layer-1")


@mutant("described")
def _(broken: bool) -> Made:
    return replace(defence(idle), summary="" if broken else "a layer")


@mutant("entry-point")
def _(broken: bool) -> Made:
    return subject(replace(defence(idle), name="renamed" if broken else "layer"), "kit_mutants.plugin")


# Configurations


class Loose(Empty):
    model_config = ConfigDict(extra="ignore")


class Unbounded(Config):
    f: int = Field(1, description="a number")


class Required(Config):
    path: str = Field(max_length=9, description="a path")


class Forgetful(Config):
    f: int = Field(1, ge=0, le=9, description="a number", exclude=True)


@mutant("config-closed")
def _(broken: bool) -> Made:
    return defence(idle, config=Loose if broken else Empty)


@mutant("config-bounded")
def _(broken: bool) -> Made:
    return defence(idle, config=Unbounded if broken else Bounded)


@mutant("config-tried")
def _(broken: bool) -> Made:
    return subject(defence(idle, config=Required), examples=() if broken else ({"path": "here"},))


@mutant("config-round-trip")
def _(broken: bool) -> Made:
    return defence(idle, config=Forgetful if broken else Bounded)


# Declarations


@mutant("signature-pure")
def _(broken: bool) -> Made:
    calls = iter(range(1, 10**6))
    return defence(
        idle, signature=lambda c: Signature(gives=(Clipped("l2", "client", bound=float(next(calls)) if broken else 1.0),))
    )


@mutant("layers-legal")
def _(broken: bool) -> Made:
    return defence(idle, signal=Cohort if broken else Updates)


@mutant("built-as-declared")
def _(broken: bool) -> Made:
    class Unmarked(Defence[Updates]):
        def defence_transform(self, signal: Updates, ctx: Any) -> Updates:
            return signal

    spec = defence(idle)
    return replace(spec, layers=(replace(spec.layers[0], build=lambda c: Unmarked()),)) if broken else spec


# Purity


@mutant("input-untouched")
def _(broken: bool) -> Made:
    return defence(lambda self, s, ctx: s.with_params(s.params.clamp_(-0.1, 0.1) if broken else s.params.clamp(-0.1, 0.1)))


@mutant("global-state-untouched")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        if broken:
            torch.rand(1)
        return signal

    return defence(transform)


@mutant("reproducible")
def _(broken: bool) -> Made:
    return defence(
        lambda self, s, ctx: s.with_params(s.params + torch.randn_like(s.params)) if broken else shifted(self, s, ctx)
    )


@mutant("rounds-differ")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        return shifted(self, signal, replace(ctx, index=0) if broken else ctx)

    return defence(transform)


@mutant("state-declared")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        if broken:
            self.seen = getattr(self, "seen", 0) + 1
        return signal.with_params(signal.params * (1 + getattr(self, "seen", 0)))

    return defence(transform)


class Momentum(Stateful):
    """Half of the state of a momentum; ``forgets`` restores nothing."""

    forgets = False
    velocity: Tensor | float = 0.0

    def state(self) -> Mapping[str, Any]:
        return {"velocity": self.velocity}

    def restore(self, state: Mapping[str, Any]) -> None:
        if not self.forgets:
            self.velocity = state["velocity"]


class Amnesia(Momentum):
    forgets = True


@mutant("state-restores")
def _(broken: bool) -> Made:
    def transform(self: Any, signal: Updates, ctx: Any) -> Updates:
        self.velocity = 0.5 * self.velocity + signal.params
        return signal.with_params(self.velocity)

    return defence(transform, others=(Amnesia if broken else Momentum,))


@mutant("acts-as-declared")
def _(broken: bool) -> Made:
    return defence(idle if broken else shifted, acts="always")
