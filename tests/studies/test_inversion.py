"""Gradient inversion through whole runs: it succeeds undefended, fails under dp-sgd, and succeeds once the noise is gone."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from sparring import Experiment
from sparring.experiment import Results
from sparring.likeness import psnr

VICTIMS = 16
ATTACK = {"inverting-gradients": {"iterations": 1200, "restarts": 2, "clients": list(range(VICTIMS))}}


def _run(folder: Path, cells: list[dict[str, Any]]) -> Results:
    experiment = Experiment.of(
        "inversion",
        seed=0,
        dataset={"name": "mnist-5k", "pad_to": 32, "partition": {"kind": "quantity", "sizes": [1] * VICTIMS}},
        model={"name": "lenet-zhu", "init": "uniform"},
        federation={"algorithm": "fedsgd", "clients": VICTIMS + 1, "rounds": 1, "batch_size": 1, "optimiser": {"lr": 0.1}},
        threat_model={"knows": ["architecture", "labels"]},
        attacks=[ATTACK],
        cells=cells,
    )
    return experiment.run(folder)


def _reached(results: Results, cell: str) -> tuple[list[float], float]:
    """PSNR of each victim, and the mean of what the mean image reaches on them."""
    score = results[cell].scores["inverting-gradients"]
    return [psnr(x, original) for original, x in score.pairs], score.measures["psnr_mean_image"].value


@pytest.mark.slow
def test_inversion_succeeds_undefended_and_fails_under_dp_sgd(tmp_path: Path) -> None:
    private = {"name": "dp-sgd", "defences": [{"dp-sgd": {"bound": 1.0, "noise_multiplier": 1.0}}]}
    results = _run(tmp_path, [{"name": "no defence"}, private])
    found, _ = _reached(results, "no defence")
    assert len(found) == VICTIMS
    assert statistics.median(found) >= 24
    found, mean_image = _reached(results, "dp-sgd")
    assert statistics.mean(found) <= mean_image


@pytest.mark.slow
def test_dp_sgd_without_its_noise_does_not_protect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring_dp.dp_sgd import PrivateGradient

    monkeypatch.setattr(PrivateGradient, "noise", lambda self, size, numbers, generator: torch.zeros(size))
    private = {"name": "mutant", "defences": [{"dp-sgd": {"bound": 1.0, "noise_multiplier": 1.0}}]}
    found, mean_image = _reached(_run(tmp_path, [private]), "mutant")
    assert statistics.mean(found) > mean_image + 6


@pytest.mark.slow
def test_a_segmentation_update_gives_its_image_away_and_under_dp_sgd_does_not(tmp_path: Path) -> None:
    """Brain slices through an untrained U-Net: 4 dB above grey, and under dp-sgd less than that."""
    study = Path(__file__).parents[2] / "experiments" / "studies" / "segmentation.yaml"
    results = Experiment.load(study).run(tmp_path)
    measures = {outcome.name: outcome.scores["inverting-gradients"].measures for outcome in results.outcomes}
    above = {name: m["psnr"].value - m["psnr_grey_image"].value for name, m in measures.items()}
    assert above["sigmoid"] > 8
    assert above["relu"] > 4
    assert above["sigmoid, dp-sgd"] < 4
    assert measures["sigmoid"]["psnr"].value > measures["sigmoid"]["psnr_mean_image"].value + 3
