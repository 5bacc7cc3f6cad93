"""Backdoors on digits: one scaled update replaces the model; rules per coordinate fail where clients differ."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring import Experiment

BASE = {
    "dataset": {"name": "digits"},
    "model": {"name": "mlp", "hidden": [64]},
    "federation": {"clients": 10, "rounds": 15, "local_epochs": 4, "batch_size": 16, "optimiser": {"lr": 0.1}},
}
SINGLE = {
    **BASE,
    "threat_model": {"compromised": {"clients": [3], "control": "update"}},
    "cells": [
        {"name": "replacement", "attacks": [{"model-replacement": {"fraction": 0.5, "window": [14, 14]}}]},
        {"name": "unscaled", "attacks": [{"model-replacement": {"fraction": 0.5, "window": [14, 14], "scale": 1.0}}]},
    ],
}
PATIENT = {
    **BASE,
    "dataset": {"name": "digits", "partition": {"kind": "dirichlet", "alpha": 0.5}},
    "threat_model": {"compromised": {"fraction": 0.4, "control": "data"}},
    "attacks": [{"badnets": {"fraction": 0.5}}],
    "cells": [
        {"name": "nobody", "attacks": [{"badnets": {"fraction": 0.0}}]},
        {"name": "mean", "defences": ["mean"]},
        {"name": "median", "defences": ["median"]},
        {"name": "trimmed mean", "defences": [{"trimmed-mean": {"f": 4}}]},
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_one_round_of_one_client_of_ten_replaces_the_model(seed: int, tmp_path: Path) -> None:
    outcomes = {o.name: o for o in Experiment.of("single", seed=seed, **SINGLE).run(tmp_path).outcomes}
    replaced, unscaled = (dict(outcomes[name].success["model-replacement"]) for name in ("replacement", "unscaled"))
    assert max(replaced[13], unscaled[13], unscaled[14]) <= 0.1
    assert replaced[14] >= 0.95
    assert (outcomes["replacement"].accuracy or 0.0) >= (outcomes["unscaled"].accuracy or 0.0) - 0.15


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_median_and_trimmed_mean_do_not_stop_four_of_ten_that_poison_in_every_round(seed: int, tmp_path: Path) -> None:
    """Clients differ, so that poisoned updates are no outliers, and rules per coordinate let the backdoor in."""
    outcomes = {o.name: o for o in Experiment.of("patient", seed=seed, **PATIENT).run(tmp_path).outcomes}
    success = {name: o.success["badnets"][-1][1] for name, o in outcomes.items()}
    assert success["nobody"] <= 0.05
    assert success["mean"] >= 0.9, success
    assert min(success["median"], success["trimmed mean"]) >= 0.5, success
    assert min(o.accuracy or 0.0 for o in outcomes.values()) >= 0.85
