"""Reference cards: what a card may say, what is compared, and that nothing stays changed once a core line was replaced."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

import sparring.aggregate
from sparring.errors import ConfigError
from sparring.registry import Entry, load
from sparring.schema import validated
from sparring.specs import DefenceSpec
from sparring.testing.cards import Card, Expected, read_card, reproduce, without_core
from tests.kit.mutants_cards import distribution

GIVEN: dict[str, Any] = {
    "technique": "layer",
    "paper": {"authors": "Anonymous", "title": "On doubling", "venue": "nowhere", "year": 2020},
    "setting": "the number three, doubled once",
    "measure": "sparring.keys:measure",
    "seconds": 1,
    "expected": [{"quantity": "twice three", "origin": "published", "value": 6, "tolerance": 0}],
    "core": [{"module": "sparring.aggregate", "line": "y = 2 * y"}],
}


@pytest.mark.parametrize(("row", "got", "holds"), [
    ({"value": 3.0, "tolerance": 0.5}, 3.5, True),
    ({"value": 3.0, "tolerance": 0.5}, 3.6, False),
    ({"at_least": 2.0}, 2.0, True),
    ({"at_least": 2.0, "at_most": 3.0}, 3.5, False),
    ({"at_most": 3.0}, -1e9, True),
    ({"value": 3.0, "tolerance": 1e9}, float("nan"), False),
    ({"at_most": 3.0}, float("nan"), False),
])  # fmt: skip
def test_a_number_holds_within_its_tolerance_or_bounds_and_nan_never(row: dict[str, float], got: float, holds: bool) -> None:
    assert Expected(quantity="it", origin="control", **row).holds(got) is holds


@pytest.mark.parametrize(("change", "said"), [
    ({"expected": [{"quantity": "it", "origin": "published", "value": 1}]}, "a number without a tolerance"),
    ({"expected": [{"quantity": "it", "origin": "published"}]}, "give either value with tolerance, or at_least"),
    ({"expected": [{"quantity": "it", "origin": "published", "value": 1, "tolerance": 1, "at_least": 0}]}, "give either"),
    ({"expected": [{"quantity": "it", "origin": "guess", "value": 1, "tolerance": 1}]}, "'published'"),
    ({"expected": [{"quantity": "it", "origin": "control", "value": 1, "tolerance": 1}]}, "say in `unpublished`"),
    ({"expected": GIVEN["expected"] * 2}, "twice"),
    ({"measure": "no function"}, "measure is 'no function'"),
    ({"secnds": 3}, "did you mean 'seconds'"),
    ({"core": [{"module": "sparring.aggregate"}]}, "core.0.line is missing"),
    ({"core": []}, "at least 1"),
])  # fmt: skip
def test_a_card_that_says_too_little_is_refused_with_the_rule(change: dict[str, Any], said: str) -> None:
    validated(Card, GIVEN, "card")
    with pytest.raises(ConfigError, match=said):
        validated(Card, {**GIVEN, **change}, "card")


def test_a_card_about_another_technique_is_refused() -> None:
    with pytest.raises(ConfigError, match="no reference card"):
        read_card(distribution(card=False), "layer")
    with pytest.raises(ConfigError, match=r"has no reference card: write other\.card\.yaml beside its module"):
        read_card(distribution(), "other")


def test_a_quantity_that_is_not_measured_is_off_and_one_that_is_not_expected_an_error() -> None:
    nothing = reproduce(read_card(distribution(measure="def measure():\n    return {{}}\n"), "layer"))
    assert not nothing.holds
    assert nothing.rows[0].got is None
    stray = "def measure():\n    return {{'twice three': 6, 'thrice': 9}}\n"
    with pytest.raises(ConfigError, match="'thrice', which no expected number names"):
        reproduce(read_card(distribution(measure=stray), "layer"))


def test_a_core_line_is_replaced_within_the_context_and_everything_is_as_before_behind_it() -> None:
    card = read_card(distribution(), "layer")
    assert reproduce(card).holds
    before = {name: module for name, module in sys.modules.items() if name.startswith(card.core[0].module.partition(".")[0])}
    finders = list(sys.meta_path)
    with without_core(card, card.core[0]):
        found = reproduce(card)
    assert [row.got for row in found.rows] == [3.0]
    assert {name: sys.modules.get(name) for name in before} == before
    assert sys.meta_path == finders
    assert reproduce(card).holds


def test_a_core_line_may_stand_in_core() -> None:
    source = Path(str(sparring.aggregate.__file__)).read_text()
    line = next(text.strip() for text in source.splitlines() if text.strip().startswith("return Release("))
    core = {"module": "sparring.aggregate", "line": line, "instead": "return None"}
    card: Card = validated(Card, {**GIVEN, "core": [core]}, "card")
    whole = sparring.aggregate
    with without_core(card, card.core[0]):
        import sparring.aggregate as changed

        assert changed is not whole
        assert changed.WeightedMean is not whole.WeightedMean
    assert sparring.aggregate is whole
    assert sys.modules["sparring.aggregate"] is whole


def test_a_spec_that_was_loaded_without_its_core_line_is_not_remembered() -> None:
    entry = Entry("defences", "norm-clip", "sparring_dp.plugin", "sparring-dp", "0")
    summary = 'summary="Scales each client\'s update to an L2 norm of at most C.",'
    core = {"module": "sparring_dp.plugin", "line": summary, "instead": 'summary="changed",'}
    card: Card = validated(Card, {**GIVEN, "measure": "sparring_dp.cards:norm_clip", "core": [core]}, "card")
    before = load(entry)
    with without_core(card, card.core[0]):
        changed = load(entry)
    assert isinstance(changed, DefenceSpec)
    assert changed.summary == "changed"
    assert load(entry) == before
