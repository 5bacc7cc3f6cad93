"""A quarter of the clients flip their updates, or hide in the spread of the honest ones: who is found, and what it saves."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any, final

import pytest
import torch
from sparring_digits.digits import Digits
from sparring_digits.plugin import DigitsConfig

from sparring.context import Setup
from sparring.roles import Data, Dataset
from sparring.run import Outcome
from sparring.testing.experiments import outcome

pytestmark = pytest.mark.slow
ATTACKS: dict[str, list[Any]] = {
    "nobody": [],
    "flip": [{"sign-flip": {"scale": 4.0}}],
    "alie": [{"alie": {"z": 1.0, "knowledge": "benign"}}],
}
SPECTRAL = {"dnc": {"f": 5}}
FILTERS = {
    "dnc": SPECTRAL,
    "signguard": "signguard",
    "sattler-clustering": "sattler-clustering",
    "clipped-clustering": "clipped-clustering",
}


@final
class RootedDigits(Dataset):
    """Digits of which every tenth training image is public: the root examples of `fltrust`."""

    def load(self, ctx: Setup) -> Data:
        held = Digits(DigitsConfig()).load(ctx)
        rooted = torch.arange(len(held.train)) % 10 == 0
        return replace(
            held, train=held.train.take((~rooted).nonzero().flatten()), public=held.train.take(rooted.nonzero().flatten())
        )


@cache
def _played(attack: str, *names: str) -> Outcome:
    return outcome(
        dataset=RootedDigits(),
        model={"name": "mlp", "hidden": []},
        federation={"clients": 20, "rounds": 10, "batch_size": 16, "optimiser": {"lr": 0.5}, "evaluate_every": 10},
        threat_model={"compromised": {"fraction": 0.25, "control": "update"}, "knows": ["benign-updates"]}
        if attack != "nobody"
        else {},
        attacks=ATTACKS[attack],
        defences=[FILTERS.get(name, name) for name in names],
        waive=[{"need": "PublicData", "reason": "the data set is an object, which cannot say so"}]
        if "fltrust" in names
        else [],
    )


def _accuracy(attack: str, *names: str) -> float:
    return _played(attack, *names).accuracy or 0.0


def test_the_mean_without_analysis_is_the_baseline() -> None:
    assert _accuracy("nobody", "mean") >= 0.88
    assert _accuracy("flip", "mean") <= 0.4


@pytest.mark.parametrize("name", [*FILTERS, "fltrust"])
def test_scaled_flips_are_found_and_the_accuracy_saved(name: str) -> None:
    found = _played("flip", name).detection[name]
    assert found["recall"] >= 0.7
    assert found["precision"] >= 0.7
    assert found["auc"] >= 0.8
    assert _accuracy("flip", name) >= _accuracy("nobody", "mean") - 0.12


def test_bounding_the_norm_saves_most_and_leaves_nobody_out() -> None:
    found = _played("flip", "norm-bound").detection["norm-bound"]
    assert found["recall"] == 0
    assert found["auc"] >= 0.95
    assert _accuracy("flip", "norm-bound") >= _accuracy("flip", "mean") + 0.3


@pytest.mark.parametrize("name", FILTERS)
def test_honest_clients_pay_for_filters_where_nobody_attacks(name: str) -> None:
    lost = _played("nobody", name).detection[name]["false_positive_rate"]
    assert 0 < lost <= 0.35
    assert _accuracy("nobody", name) >= _accuracy("nobody", "mean") - 0.05


def test_sybils_that_send_one_row_are_found_by_likeness_and_pass_for_the_majority_by_direction() -> None:
    assert _played("alie", "foolsgold").detection["foolsgold"]["recall"] >= 0.95
    assert _played("flip", "foolsgold").detection["foolsgold"]["auc"] <= 0.6, "flipped rows differ from one another"
    assert _played("alie", "clipped-clustering").detection["clipped-clustering"]["recall"] <= 0.2


def test_a_reputation_follows_the_analysis_before_it() -> None:
    found = _played("flip", "clipped-clustering", "reputation").detection
    assert found["clipped-clustering"]["recall"] >= 0.8
    assert found["reputation"]["false_positive_rate"] <= 0.1


def test_negated_steps_do_not_help_against_rows_that_are_merely_long() -> None:
    assert _accuracy("nobody", "rlr") >= _accuracy("nobody", "mean") - 0.05
    assert _accuracy("flip", "rlr") <= 0.4
