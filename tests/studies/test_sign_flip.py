"""A quarter of the clients flip and scale their updates: the mean breaks, the trimmed mean holds."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring import Experiment

BASE = {
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "hidden": []},
    "federation": {"clients": 20, "rounds": 20, "batch_size": 16, "optimiser": {"lr": 0.5}, "evaluate_every": 20},
    "threat_model": {"compromised": {"fraction": 0.25, "control": "update"}},
    "attacks": [{"sign-flip": {"scale": 4.0}}],
    "cells": [
        {"name": "clean", "attacks": []},
        {"name": "mean", "defences": ["mean"]},
        {"name": "trimmed mean", "defences": [{"trimmed-mean": {"f": 5}}]},
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_scaled_sign_flips_break_the_mean_and_not_the_trimmed_mean(seed: int, tmp_path: Path) -> None:
    results = Experiment.of("sign-flip", seed=seed, **BASE).run(tmp_path)
    accuracy = {outcome.name: outcome.accuracy or 0.0 for outcome in results.outcomes}
    assert accuracy["clean"] >= 0.9
    assert accuracy["mean"] <= accuracy["clean"] - 0.30
    assert accuracy["trimmed mean"] >= accuracy["clean"] - 0.05
