"""The laws of signatures: composition is associative, has an identity, and says exactly what walking says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.checker import walk
from sparring.claims import Heuristic
from sparring.facts import Clipped, Exposure, Fact, Guarantee, Hardware, Readable, Sensitivity, Setting
from sparring.signature import ALL, All, Clause, Map, Signature, Step, absorb, compose
from sparring.sites import OWNED, Site


@dataclass(frozen=True)
class Safe(Guarantee):
    """A guarantee with two closed fields and a number."""

    norm: Literal["l1", "l2"] | None = None
    unit: Literal["example", "client"] | None = None
    bound: float | None = None


@dataclass(frozen=True)
class Plain(Guarantee):
    """A guarantee without fields."""


@dataclass(frozen=True)
class Seen(Exposure):
    """An exposure with two closed fields."""

    by: Literal["server", "outsider"] | None = None
    grain: Literal["client", "cohort"] | None = None
    rate: float | None = None


@dataclass(frozen=True)
class Around(Setting):
    """A setting."""

    kind: Literal["tee", "gpu"] | None = None


UNIVERSE: tuple[Fact, ...] = (*Safe().ground(), Plain(), *Seen().ground(), *Around().ground())
SAFE = (*Safe().ground(), Plain())
BOUND = settings(max_examples=150, deadline=None, derandomize=True)

numbers = st.one_of(st.none(), st.floats(0, 9))
safe_patterns: st.SearchStrategy[Fact] = st.one_of(
    st.builds(Safe, st.sampled_from([None, "l1", "l2"]), st.sampled_from([None, "example", "client"])),
    st.builds(Plain),
)
seen_patterns: st.SearchStrategy[Fact] = st.builds(
    Seen, st.sampled_from([None, "server", "outsider"]), st.sampled_from([None, "client", "cohort"])
)
setting_patterns: st.SearchStrategy[Fact] = st.builds(Around, st.sampled_from([None, "tee", "gpu"]))
patterns = st.one_of(safe_patterns, seen_patterns, setting_patterns)
alike = st.one_of(st.tuples(safe_patterns, safe_patterns), st.tuples(seen_patterns, seen_patterns))
clauses = st.one_of(patterns, st.lists(patterns, min_size=1, max_size=3).map(tuple))


def _numbered(fact: Fact, number: float | None) -> Fact:
    if isinstance(fact, Safe):
        return replace(fact, bound=number)
    return replace(fact, rate=number) if isinstance(fact, Seen) else fact


ground = st.builds(_numbered, st.sampled_from([f for f in UNIVERSE if not isinstance(f, Setting)]), numbers)
starts = st.lists(st.builds(_numbered, st.sampled_from(UNIVERSE), numbers), max_size=14, unique_by=lambda fact: fact.key)
maps = st.one_of(
    st.builds(Map, safe_patterns, st.sampled_from(SAFE)),
    st.builds(Map, seen_patterns, st.sampled_from(tuple(Seen().ground()))),
)
signatures = st.builds(
    Signature,
    needs=st.lists(clauses, max_size=2).map(tuple),
    gives=st.lists(ground, max_size=2).map(tuple),
    keeps=st.one_of(st.lists(safe_patterns, max_size=2).map(tuple), st.just(ALL)),
    hides=st.lists(seen_patterns, max_size=2).map(tuple),
    maps=st.lists(maps, max_size=4).map(tuple),
    claims=st.lists(st.sampled_from([Heuristic("a"), Heuristic("b")]), max_size=1).map(tuple),
)
sites = st.sampled_from([Site.DATA, Site.GRADIENT, Site.UPDATE, Site.RELEASE])
steps = st.builds(Step, st.sampled_from("abc"), sites, signatures)
in_order = st.lists(steps, min_size=3, max_size=3).map(lambda found: sorted(found, key=lambda step: step.site))
stacks = st.one_of(in_order, in_order, st.lists(steps, min_size=3, max_size=3))


def _clause_form(clause: Clause) -> frozenset[object]:
    return frozenset(fact.key for need in clause for fact in need.ground())


def _normal(step: Step | None) -> object:
    """A step as a relation on facts without blanks: equal exactly where two steps behave equally."""
    if step is None:
        return None
    signature = step.signature
    needs = {_clause_form(clause) for clause in signature.clauses}
    gives = {fact.key for fact in signature.gives}
    relation = {(before.key, after.key) for before, after in signature.flow(UNIVERSE)}
    return (
        step.enters,
        step.site,
        frozenset(c for c in needs if not any(other < c for other in needs)),
        frozenset(gives),
        frozenset(pair for pair in relation if pair[1] not in gives),
        signature.claims,
    )


def _keys(facts: Iterable[Fact]) -> frozenset[object]:
    return frozenset(fact.key for fact in facts)


def _then(f: Step | None, g: Step | None) -> Step | None:
    return None if f is None or g is None else compose(f, g)


@BOUND
@given(stacks)
def test_composition_is_associative(stack: list[Step]) -> None:
    f, g, h = stack
    assert _normal(_then(compose(f, g), h)) == _normal(_then(f, compose(g, h)))


@BOUND
@given(steps)
def test_a_step_that_keeps_all_is_the_identity(f: Step) -> None:
    before = Step("before", Site.START, Signature(keeps=ALL))
    left = compose(before, f)
    assert left is not None
    assert _normal(replace(left, entry=f.entry)) == _normal(f)
    if f.site not in OWNED:
        assert _normal(compose(f, Step("after", f.site, Signature(keeps=ALL)))) == _normal(f)


@BOUND
@given(stacks, starts)
def test_a_composite_passes_exactly_the_starts_that_its_parts_pass_and_leaves_the_same_facts(
    stack: list[Step], start: list[Fact]
) -> None:
    for parts in (stack[:2], stack):
        report = walk(parts, start)
        whole: Step | None = parts[0]
        for part in parts[1:]:
            whole = _then(whole, part)
        assert report.ok == (whole is not None and walk([whole], start).ok)
        if report.ok and whole is not None:
            assert _keys(walk([whole], start).facts) == _keys(report.facts)


@BOUND
@given(stacks, starts)
def test_a_composite_may_stand_among_other_steps(stack: list[Step], start: list[Fact]) -> None:
    f, g, h = stack
    expected = walk(stack, start).ok
    front, back = compose(f, g), compose(g, h)
    assert front is None or walk([front, h], start).ok == expected
    assert back is None or walk([f, back], start).ok == expected


@BOUND
@given(steps, steps)
def test_composition_is_undefined_exactly_where_no_start_passes(f: Step, g: Step) -> None:
    # Needs are never negative, so a stack that any start passes is passed by the start at which everything holds.
    assert (compose(f, g) is None) == (not walk([f, g], UNIVERSE).ok)


@BOUND
@given(in_order, starts, st.data())
def test_more_facts_at_the_start_never_make_a_stack_fail(stack: list[Step], start: list[Fact], data: st.DataObject) -> None:
    if walk(stack, start).ok:
        assert walk(stack, [*start, *data.draw(starts)]).ok


def _one_way(signature: Signature) -> bool:
    """Whether at most one fact before the layer becomes each fact behind it."""
    targets = [after.key for _, after in signature.flow(UNIVERSE)]
    return len(set(targets)) == len(targets)


def _doubled(source: Fact, made: Fact) -> Map:
    """A map that doubles the number of its source and adds one."""

    def carry(fact: Fact) -> Fact:
        number = getattr(fact, "bound", None)
        return _numbered(made, None if number is None else 2 * number + 1)

    return Map(source, made, carry)


bounds = st.sampled_from(tuple(Safe().ground()))
doubling = st.lists(st.builds(_doubled, bounds, bounds), max_size=3).map(tuple)
counted = st.builds(
    Signature,
    gives=st.lists(ground, max_size=2).map(tuple),
    keeps=st.lists(safe_patterns, max_size=1).map(tuple),
    maps=doubling,
)


@BOUND
@given(st.lists(counted.filter(_one_way), min_size=3, max_size=3), starts)
def test_numbers_are_carried_alike_by_parts_and_by_their_composite(found: list[Signature], start: list[Fact]) -> None:
    f, g, h = (Step("layer", Site.UPDATE, signature) for signature in found)
    whole = _then(compose(f, g), h)
    assert whole is not None
    assert walk([whole], start).facts == walk([f, g, h], start).facts


def test_the_latest_giver_of_a_fact_sets_its_number() -> None:
    loose, tight = (
        Step(f"clip-{bound}", Site.UPDATE, Signature(gives=(Clipped("l2", "client", "all", bound),), keeps=(Clipped(),)))
        for bound in (5.0, 1.0)
    )
    assert walk([loose, tight], [Clipped("l2", "client", "all", 9.0)]).facts == {Clipped("l2", "client", "all", 1.0)}
    assert walk([tight, loose], []).facts == {Clipped("l2", "client", "all", 5.0)}


def test_a_map_computes_its_number_from_the_fact_that_it_changes() -> None:
    def mean(fact: Fact) -> Fact:
        assert isinstance(fact, Clipped)
        assert fact.bound is not None
        return Sensitivity("client", fact.bound / 10)

    clip = Step("clip", Site.UPDATE, Signature(gives=(Clipped("l2", "client", "all", 3.0),)))
    rule = Step("mean", Site.AGGREGATE, Signature(maps=(Map(Clipped("l2", "client"), Sensitivity("client"), mean),)))
    composite = compose(clip, rule)
    assert composite is not None
    assert walk([clip, rule], []).facts == walk([composite], []).facts == {Sensitivity("client", 0.3)}


def test_a_map_that_does_not_give_what_it_declares_is_refused() -> None:
    lying = Map(Plain(), Safe("l1", "client"), lambda fact: Safe("l2", "client"))
    with pytest.raises(ValueError, match=r"must give Safe\(l1, client\), gave Safe\(l2, client\)"):
        walk([Step("liar", Site.UPDATE, Signature(maps=(lying,)))], [Plain()])


def _forgetful(signature: Signature, heard: set[type[Fact]]) -> Signature:
    """The signature as an author wrote it who never heard of other types of facts than ``heard``."""
    return replace(
        signature,
        keeps=signature.keeps if isinstance(signature.keeps, All) else tuple(f for f in signature.keeps if type(f) in heard),
        hides=tuple(f for f in signature.hides if type(f) in heard),
        maps=tuple(m for m in signature.maps if isinstance(m.target, Exposure) or type(m.source) in heard),
    )


@BOUND
@given(in_order, starts, st.sets(st.sampled_from([Safe, Plain, Seen])), st.integers(0, 2))
def test_a_forgetful_layer_over_reports_leakage_and_under_reports_protection(
    stack: list[Step], start: list[Fact], heard: set[type[Fact]], at: int
) -> None:
    forgetful = replace(stack[at], signature=_forgetful(stack[at].signature, heard))
    truth = walk(stack, start).facts
    told = walk([*stack[:at], forgetful, *stack[at + 1 :]], start).facts
    assert _keys(f for f in told if isinstance(f, Guarantee)) <= _keys(f for f in truth if isinstance(f, Guarantee))
    assert _keys(f for f in told if isinstance(f, Exposure)) >= _keys(f for f in truth if isinstance(f, Exposure))


@BOUND
@given(signatures, starts)
def test_facts_of_which_a_layer_never_heard_leak_on_and_protect_no_more(signature: Signature, start: list[Fact]) -> None:
    after = walk([Step("layer", Site.UPDATE, _forgetful(signature, set()))], start).facts
    assert _keys(after) >= _keys(fact for fact in start if isinstance(fact, Exposure | Setting))
    if not isinstance(signature.keeps, All):
        given = _keys(signature.gives)
        assert not any(isinstance(fact, Guarantee) and fact.key not in given for fact in after)


def test_protection_never_comes_from_leakage_by_a_map_nor_the_reverse() -> None:
    for source, target in ((Seen(), Plain()), (Plain(), Seen("server", "client")), (Plain(), Around("tee"))):
        with pytest.raises(ValueError, match="no map from"):
            Map(source, target)


def test_what_is_given_has_no_blanks_but_for_among() -> None:
    Signature(gives=(Clipped("l2", "client"),))
    with pytest.raises(ValueError, match=r"Readable\(server\), leaves what, grain blank"):
        Signature(gives=(Readable("server"),))
    with pytest.raises(ValueError, match="leaves unit blank"):
        Map(Clipped(), Sensitivity())


@BOUND
@given(alike)
def test_without_is_the_difference_of_patterns(pair: tuple[Fact, Fact]) -> None:
    one, other = pair
    left = [fact.key for piece in one.without(other) for fact in piece.ground()]
    assert len(left) == len(set(left))
    assert set(left) == _keys(one.ground()) - _keys(other.ground())


@BOUND
@given(st.one_of(alike, st.tuples(patterns, patterns)))
def test_meet_is_the_intersection_of_patterns(pair: tuple[Fact, Fact]) -> None:
    one, other = pair
    both = one.meet(other)
    assert _keys(one.ground()) & _keys(other.ground()) == (_keys(both.ground()) if both else frozenset())


def test_a_need_that_is_half_hidden_is_pulled_back_to_what_is_left() -> None:
    tee = Step("tee", Site.UPDATE, Signature(keeps=ALL, hides=(Readable("server", "update", "client"),)))
    reader = Step("reader", Site.COHORT, Signature(needs=(Readable(None, "update", "client"), Hardware()), keeps=ALL))
    both = compose(tee, reader)
    assert both is not None
    assert walk([both], [Readable("aggregator", "update", "client"), Hardware("tee")]).ok
    assert not walk([both], [Readable("server", "update", "client"), Hardware("tee")]).ok


def test_absorbing_leaves_no_clause_that_another_implies() -> None:
    left = absorb([(Safe("l1"), Plain()), (Safe("l1", "client"),), (Safe(),), (Plain(), Safe("l1")), (Plain(),)])
    assert left == ((Safe("l1", "client"),), (Plain(),))


def test_unstamped_bounds_compose_as_they_walk() -> None:
    clip = Step("clip", Site.UPDATE, Signature(gives=(Clipped("l2", "client"),)))
    top = Step("top-k", Site.UPDATE, Signature(keeps=(Clipped("l2"),)))
    noise = Step("noise", Site.UPDATE, Signature(needs=(Clipped("l2", "client"),)))
    assert walk([clip, top, noise], []).ok
    assert _then(compose(clip, top), noise) is not None
    assert _then(clip, compose(top, noise)) is not None
