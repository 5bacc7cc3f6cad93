"""Gradient inversion against heuristic defences on digits: what an attack that does not know of them still finds."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest

from sparring import Experiment
from sparring.likeness import psnr

VICTIMS = 8
DEFENCES: dict[str, list[Any]] = {
    "none": [],
    "pruning": [{"gradient-pruning": {"fraction": 0.9}}],
    "quantisation": [{"gradient-quantisation": {"bits": 2}}],
    "soteria": [{"soteria": {"fraction": 0.3}}],
    "mixup": ["mixup"],
    "instahide": ["instahide"],
}


def experiment(defences: dict[str, list[Any]], size: int) -> Experiment:
    """One round of FedSGD in which each victim has ``size`` digits, and the server inverts their gradients."""
    return Experiment.of(
        "perturbation",
        seed=0,
        dataset={"name": "digits", "partition": {"kind": "quantity", "sizes": [size] * VICTIMS}},
        model={"name": "mlp", "hidden": [64], "activation": "sigmoid"},
        federation={"algorithm": "fedsgd", "clients": VICTIMS + 1, "rounds": 1, "optimiser": {"lr": 0.1}},
        threat_model={"knows": ["architecture", "labels"]},
        attacks=[{"inverting-gradients": {"iterations": 600, "restarts": 1, "tv": 0.0, "clients": list(range(VICTIMS))}}],
        cells=[{"name": name, "defences": stack} for name, stack in defences.items()],
    )


def reached(folder: Path, defences: dict[str, list[Any]], size: int) -> tuple[dict[str, float], float]:
    """Mean PSNR of the reconstructions in each cell, and that of the mean image."""
    results = experiment(defences, size).run(folder)
    scores = {name: results[name].scores["inverting-gradients"] for name in defences}
    found = {name: statistics.mean(psnr(x, truth) for truth, x in score.pairs) for name, score in scores.items()}
    print({name: round(value, 1) for name, value in found.items()}, scores["none"].measures["psnr_mean_image"].value)
    return found, scores["none"].measures["psnr_mean_image"].value


@pytest.mark.slow
def test_single_images_are_hidden_from_an_attack_that_does_not_know_but_mixup_does_nothing(tmp_path: Path) -> None:
    found, mean_image = reached(tmp_path, DEFENCES, 1)
    assert found["none"] >= mean_image + 10
    for name in ("pruning", "quantisation", "soteria", "instahide"):
        assert found[name] <= found["none"] - 6, name
    assert found["mixup"] == pytest.approx(found["none"], abs=3)


@pytest.mark.slow
def test_mixtures_are_what_is_found_of_a_batch(tmp_path: Path) -> None:
    found, _ = reached(tmp_path, {name: DEFENCES[name] for name in ("none", "mixup", "instahide")}, 4)
    assert found["mixup"] <= found["none"] - 3
    assert found["instahide"] <= found["none"] - 3


def test_no_per_example_guarantee_survives_mixing() -> None:
    for name in ("mixup", "instahide"):
        (cell,) = experiment({"none": [name, "dp-sgd"]}, 4).resolve().values()
        assert not cell.ok
        assert "PerExample" in cell.explain()
        assert name in cell.explain()
    (cell,) = experiment({"none": ["soteria", "dp-sgd"]}, 4).resolve().values()
    assert cell.ok, cell.explain()
