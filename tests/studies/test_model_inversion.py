"""Model inversion of handwritten digits: what the inverted model never saw decides whether a digit is known."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import fmean
from typing import Any

import pytest

from sparring.scoring import Measure, wilson
from sparring.testing.experiments import outcome

DIGITS = {"dataset": {"name": "digits"}, "federation": {"clients": 10, "rounds": 8, "optimiser": {"lr": 0.5}}}
REGRESSION = {"name": "mlp", "hidden": []}


def scored(name: str, options: Mapping[str, Any], **sections: Any) -> Mapping[str, Measure]:
    told = {"knows": ["architecture"], **sections.pop("threat_model", {})}
    return outcome(attacks=[{name: dict(options)}], threat_model=told, **{**DIGITS, **sections}).scores[name].measures


@pytest.mark.parametrize(("name", "options"), [("mi-face", {"lr": 1.0, "iterations": 500}), ("model-inversion", {})])
@pytest.mark.parametrize("model", [REGRESSION, {"name": "mlp"}], ids=["regression", "mlp"])
def test_of_digits_an_evaluator_knows_four_in_five(name: str, options: dict[str, Any], model: dict[str, Any]) -> None:
    measures = scored(name, options, model=model)
    assert measures["recognised"].value >= 0.8
    assert measures["evaluator_accuracy"].value >= 0.95


def test_answers_within_a_budget_are_enough_for_digits() -> None:
    options = {"reads": "query", "lr": 1.0}
    measures = scored("mi-face", options, model=REGRESSION, threat_model={"query_budget": 100_000})
    assert measures["recognised"].value >= 0.8


@pytest.mark.parametrize(("name", "options"), [("mi-face", {"lr": 1.0, "iterations": 300}), ("model-inversion", {})])
def test_of_untrained_models_no_more_is_known_than_by_chance(name: str, options: dict[str, Any]) -> None:
    """A round of lr 1e-6 leaves the model as it was drawn; 1 of 10 classes are hit, over 5 models of 10 classes 0 to 12 of 50.

    P(Binomial(50, .1) > 12) = .001.
    """
    untrained = {"clients": 2, "rounds": 1, "optimiser": {"lr": 1e-6}}
    hits = [scored(name, options, model=REGRESSION, federation=untrained, seed=seed)["recognised"].value for seed in range(5)]
    assert round(10 * sum(hits)) <= 12


def test_noise_that_drowns_the_model_leaves_less() -> None:
    """Each client adds noise of 20 times its update's bound; the intervals of the shares, with it and without, do not meet."""
    noisy = [{"norm-clip": {"bound": 0.5}}, {"gauss-noise": {"noise_multiplier": 20.0}}]
    options = {"lr": 1.0, "iterations": 300}
    bare, drowned = (
        fmean(scored("mi-face", options, model=REGRESSION, defences=defences, seed=s)["recognised"].value for s in range(2))
        for defences in ([], noisy)
    )
    above, below = wilson(round(20 * drowned), 20), wilson(round(20 * bare), 20)
    assert above is not None
    assert below is not None
    assert above[1] < below[0]
