"""Six mistakes of implementers; each line that must be an error, and no other, ends in `# E:`."""

from __future__ import annotations

from typing import final

from sparring.context import Context, Round
from sparring.hookspecs import hookimpl
from sparring.roles import ActiveAttack, Aggregator, Defence
from sparring.signals import Cohort, Release, Updates
from sparring.signature import Signature
from sparring.sites import Site
from sparring.specs import AggregatorSpec, Config, DefenceSpec, Layer


@final
class WrongPayload(Defence[Updates]):
    @hookimpl
    def defence_transform(self, signal: Cohort, ctx: Context) -> Updates:  # E: wrong payload
        raise NotImplementedError


@final
class WrongReturn(Defence[Updates]):
    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> None:  # E: wrong return
        return None


@final
class DroppedArgument(Aggregator):
    @hookimpl
    def server_aggregate(self, cohort: Cohort) -> Release:  # E: dropped argument
        raise NotImplementedError


@final
class Misspelt(Aggregator):  # E: misspelt hook
    @hookimpl
    def server_agregate(self, cohort: Cohort, ctx: Round) -> Release:
        raise NotImplementedError


Misspelt()  # E: misspelt hook


class IllegalSite(Defence[int]):  # E: illegal site
    pass


class IllegalAttackSite(ActiveAttack[Config]):  # E: illegal site
    pass


class A(Config):
    a: int = 0


class B(Config):
    b: int = 0


@final
class OfB(Defence[Updates]):
    def __init__(self, config: B) -> None:
        self.config = config

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        return signal


@final
class Rule(Aggregator):
    def __init__(self, config: B) -> None:
        self.config = config

    @hookimpl
    def server_aggregate(self, cohort: Cohort, ctx: Round) -> Release:
        raise NotImplementedError


def build_of_b(config: B) -> OfB:
    return OfB(config)


def rule_of_b(config: B) -> Rule:
    return Rule(config)


def facts_of_b(config: B) -> Signature:
    return Signature()


layer_of_b = Layer(site=Site.UPDATE, build=build_of_b)

DefenceSpec(api=1, name="x", config=A, summary="x", layers=(Layer(site=Site.UPDATE, build=build_of_b),))  # E: config and factory
DefenceSpec(api=1, name="x", config=A, summary="x", layers=(layer_of_b,))  # E: config and factory
DefenceSpec(api=1, name="x", config=B, summary="x", layers=(layer_of_b,))
AggregatorSpec(api=1, name="x", config=A, summary="x", build=rule_of_b, signature=Signature())  # E: config and factory
AggregatorSpec(api=1, name="x", config=A, summary="x", build=lambda c: Rule(B()), signature=facts_of_b)  # E: config and factory
AggregatorSpec(api=1, name="x", config=B, summary="x", build=rule_of_b, signature=facts_of_b)
