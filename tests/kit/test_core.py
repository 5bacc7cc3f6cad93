"""Core's own trainer, rule and strategies keep the laws that the kit holds plugins to."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from sparring.aggregate import WeightedMean
from sparring.defaults import MEAN
from sparring.facts import Identified, Space, Summable, Weighted
from sparring.fedavg import FederatedAveraging
from sparring.roles import Engine
from sparring.signature import ALL, Signature
from sparring.specs import AggregatorSpec, AnySpec, Empty, EngineSpec, TrainerSpec
from sparring.stacked import Stacked
from sparring.strategies import Strategy, Work
from sparring.testing import Case, Inapplicable, cases
from sparring.train import Sequential
from sparring.workers import Workers


def engine(name: str, strategy: Callable[[Work], Strategy]) -> EngineSpec[Any]:
    def body(namespace: dict[str, Any]) -> None:
        namespace["strategy"] = lambda self, work, ctx: strategy(work)

    made: Any = types.new_class("Made", (Engine,), {}, body)
    return EngineSpec(api=1, name=name, config=Empty, summary=f"the {name} strategy", build=lambda c: made())


def trainer(name: str, momentum: float) -> TrainerSpec[Any]:
    gives = Signature(gives=(Summable(), Identified(), Weighted(), Space("real")), keeps=ALL)
    build = lambda c: FederatedAveraging(1.0, momentum, True)  # noqa: E731
    return TrainerSpec(api=1, name=name, config=Empty, summary="federated averaging", build=build, signature=gives)


def offered() -> Iterable[AnySpec]:
    return (
        engine("sequential", Sequential),
        engine("stacked", Stacked),
        engine("workers", lambda work: Workers(work, 2)),
        trainer("fedavg", 0.0),
        trainer("fedavg-momentum", 0.5),
        AggregatorSpec(
            api=1, name="weighted-mean", config=Empty, summary="the default", build=lambda c: WeightedMean(), signature=MEAN
        ),
    )


DISTRIBUTED = ("sparring.testing.packaging", "sparring.testing.reference")
"""Checks of what a distribution brings along; what core holds itself has none."""
CASES = [case for case in cases(offered) if case.check.function.__module__ not in DISTRIBUTED]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_core_keeps_its_own_laws(case: Case) -> None:
    try:
        case.run()
    except Inapplicable as reason:
        pytest.skip(str(reason))
