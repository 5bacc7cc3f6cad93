"""How mutants are made: specs of each kind around one function, and the register of mutants by check."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from sparring.facts import Identified, Space, Summable, Weighted
from sparring.hookspecs import hookimpl
from sparring.roles import (
    ActiveAttack,
    Aggregator,
    Defence,
)
from sparring.signals import Cohort, Release, Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import (
    AggregatorSpec,
    AnySpec,
    AttackSpec,
    Config,
    DefenceSpec,
    Empty,
    Layer,
)
from sparring.testing import cases
from sparring.testing.subject import Subject

cases(lambda: ())
ROWS = (Summable(), Identified(), Weighted(), Space("real"))
Made = AnySpec | Subject
MUTANTS: dict[str, Callable[[bool], Made]] = {}


def mutant(check: str, flaw: str = "") -> Callable[[Callable[[bool], Made]], Callable[[bool], Made]]:
    """Registers a factory: given False it makes the twin that passes ``check``, given True the mutant that fails it.

    ``flaw``: what is wrong with this mutant, where the check has several.
    """
    name = f"{check}/{flaw}" if flaw else check

    def register(make: Callable[[bool], Made]) -> Callable[[bool], Made]:
        assert name not in MUTANTS, f"two mutants are named {name}"
        MUTANTS[name] = make
        return make

    return register


def subject(spec: AnySpec, module: str = "sparring.specs", **given: Any) -> Subject:
    return Subject(spec, given.pop("siblings", (spec,)), module, **given)


def instance_of(
    role: Any, signal: type, hook: str, transform: Callable[[Any, Any, Any], Any], *others: type
) -> Callable[[Any], Any]:
    """A factory of a class of a role that runs ``transform(self, signal, ctx)``."""

    def body(namespace: dict[str, Any]) -> None:
        def run(self: Any, signal: Any, ctx: Any) -> Any:
            return transform(self, signal, ctx)

        namespace[hook] = hookimpl(run)

    made: Any = types.new_class("Made", (role[signal] if signal is not object else role, *others), {}, body)

    def build(config: Any) -> Any:
        instance = made()
        instance.config = config
        return instance

    return build


def defence(
    transform: Callable[[Any, Any, Any], Any],
    *,
    signal: type = Updates,
    site: Site = Site.UPDATE,
    config: type[Config] = Empty,
    others: tuple[type, ...] = (),
    **layer: Any,
) -> DefenceSpec[Any]:
    build = instance_of(Defence, signal, "defence_transform", transform, *others)
    layer.setdefault("signature", Signature(keeps=ROWS))
    return DefenceSpec(api=1, name="layer", config=config, summary="a layer", layers=(Layer(site=site, build=build, **layer),))


def attack(transform: Callable[[Any, Any, Any], Any], **layer: Any) -> AttackSpec[Any]:
    build = instance_of(ActiveAttack, Updates, "attack_transform", transform)
    layer.setdefault("signature", Signature(keeps=ROWS))
    layers = (Layer(site=Site.UPDATE, build=build, **layer),)
    return AttackSpec(api=1, name="attack", config=Empty, summary="an attack", game="poisoning", layers=layers)


def rule(aggregate: Callable[[Any, Cohort, Any], Tensor], config: type[Config] = Empty) -> AggregatorSpec[Any]:
    def run(self: Any, cohort: Cohort, ctx: Any) -> Release:
        return Release(aggregate(self, cohort, ctx), cohort.layout, float(len(cohort)), len(cohort))

    build = instance_of(Aggregator, object, "server_aggregate", run)
    return AggregatorSpec(api=1, name="rule", config=config, summary="a rule", build=build, signature=Signature(keeps=ALL))


def shifted(self: Any, signal: Updates, ctx: Any) -> Updates:
    """Adds noise from each client's own stream."""
    noise = [torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids]
    return signal.with_params(signal.params + torch.stack(noise))


def idle(self: Any, signal: Any, ctx: Any) -> Any:
    return signal


class Bounded(Config):
    f: int = Field(1, ge=0, le=9, description="a number")
