"""Roles read their site from the class's own bases; facts and signatures refuse what is outside their closed sets."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar, Union

import pytest

from sparring.context import Context, Setup
from sparring.facts import Clipped, Fact, Guarantee, Knows, Readable, Space, closed_fields
from sparring.roles import SITES, VIEW_NAMES, ActiveAttack, Defence, PassiveAttack
from sparring.signals import Cohort, Release, Updates
from sparring.signature import Signature
from sparring.sites import OWNED, Site
from sparring.views import AggregateView, Finding, UpdateView, View

T = TypeVar("T", Updates, Release)
W = TypeVar("W", bound=View)


def test_the_argument_is_the_signal() -> None:
    class OnUpdates(Defence[Updates]):
        def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
            return signal

    class OnCohorts(ActiveAttack[Cohort]):
        def attack_transform(self, signal: Cohort, ctx: Context) -> Cohort:
            return signal

    assert OnUpdates.signal is Updates
    assert OnCohorts.signal is Cohort


def test_the_argument_of_a_passive_attack_is_its_views() -> None:
    class One(PassiveAttack[UpdateView]):
        def attack_observe(self, view: UpdateView, ctx: Setup) -> Finding | None:
            return None

    class Two(PassiveAttack[UpdateView | AggregateView]):
        def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Finding | None:
            return None

    class Old(PassiveAttack[Union[UpdateView, AggregateView]]):  # noqa: UP007
        def attack_observe(self, view: UpdateView | AggregateView, ctx: Setup) -> Finding | None:
            return None

    assert One.views == (UpdateView,)
    assert Two.views == Old.views == (UpdateView, AggregateView)


def test_a_type_variable_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Any1: write Defence\[<one type>\], not a type variable"):

        class Any1(Defence[T]): ...

    with pytest.raises(TypeError, match="not a type variable"):

        class Any2(ActiveAttack[T]): ...

    with pytest.raises(TypeError, match="not a type variable"):

        class Any3(PassiveAttack[W]): ...


def test_no_argument_is_refused() -> None:
    with pytest.raises(TypeError, match=r"must subclass Defence\[<one type>\] directly"):

        class Bare(Defence): ...  # type: ignore[type-arg]


def test_a_second_level_of_inheritance_is_refused() -> None:
    class Clip(Defence[Updates]):
        def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
            return signal

    with pytest.raises(TypeError, match=r"Tighter must subclass Defence\[<one type>\] directly; share code in functions"):

        class Tighter(Clip): ...

    class Guess(PassiveAttack[UpdateView]):
        def attack_observe(self, view: UpdateView, ctx: Setup) -> Finding | None:
            return None

    with pytest.raises(TypeError, match="directly"):

        class Better(Guess): ...


@pytest.mark.parametrize("foreign", [int, Fact, UpdateView, None])
def test_a_foreign_signal_is_refused(foreign: Any) -> None:
    for role in (Defence, ActiveAttack):
        with pytest.raises(TypeError, match="is no signal; one of ModelPlan, ClientData"):
            _made(role[foreign])


def _made(base: Any) -> type:
    class Foreign(base): ...  # type: ignore[misc]

    return Foreign


@pytest.mark.parametrize("foreign", [int, Updates, UpdateView | Updates, UpdateView | None])
def test_a_foreign_view_is_refused(foreign: Any) -> None:
    with pytest.raises(TypeError, match="is no view"):
        _made(PassiveAttack[foreign])


def test_an_incomplete_class_cannot_be_built() -> None:
    class Nothing(Defence[Updates]): ...

    with pytest.raises(TypeError, match="defence_transform"):
        Nothing()  # type: ignore[abstract]


def test_every_site_at_which_layers_act_has_one_signal() -> None:
    sites = [site for found in SITES.values() for site in found]
    assert len(sites) == len(set(sites))
    assert set(Site) - set(sites) == {Site.START, Site.TRAINER, Site.AGGREGATE}
    assert all(site.local for site in OWNED)
    assert len(set(VIEW_NAMES.values())) == len(VIEW_NAMES)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (Readable, {"by": "sever"}, "Readable.by is 'sever'; it must be one of server, aggregator, client, outsider"),
        (Clipped, {"norm": "l3"}, "Clipped.norm is 'l3'; it must be one of l1, l2, linf"),
        (Knows, {"what": "everything"}, "Knows.what is 'everything'"),
        (Space, {"kind": "complex"}, "Space.kind is 'complex'"),
    ],
)
def test_facts_refuse_values_outside_their_closed_sets(kind: type[Fact], values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        kind(**values)
    with pytest.raises(ValueError, match=message):
        replace(kind(), **values)


@dataclass(frozen=True)
class Coded(Guarantee):
    """A third party's fact, with closed numbers, and a carried name."""

    bits: Literal[1, 2] | None = None
    codec: str | None = None


def test_third_parties_may_add_facts() -> None:
    closed: object = closed_fields(Coded)
    assert closed == {"bits": (1, 2)}
    assert Coded(1, "a").meets(Coded())
    assert Coded(1, "a").key == Coded(1, "b").key
    assert not Coded(1).meets(Coded(2))
    assert str(Coded(2, "golomb")) == "Coded(2, codec=golomb)"
    assert [fact.bits for fact in Coded().ground()] == [1, 2]
    with pytest.raises(ValueError, match=r"Coded.bits is 3; it must be one of 1, 2"):
        Coded(3)  # type: ignore[arg-type]
    assert Signature(gives=(Coded(1),)).gives == (Coded(1),)


def test_a_fact_of_another_type_never_meets() -> None:
    assert not Coded(1).meets(Space())
    assert Coded(1).meet(Space("real")) is None
    assert Clipped("l2", "client", "all", 1.0).meets(Clipped("l2"))
    assert not Clipped("l2", "client").meets(Clipped("l2", "client", "all"))
