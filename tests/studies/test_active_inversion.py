"""A malicious server's inversion through whole runs: aggregates give up their inputs, and local noise takes them back."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from sparring import Experiment
from sparring.errors import CheckpointError
from sparring.scoring import Measure

CLIENTS, EACH = 4, 8
ATTACK = {"robbing-the-fed": {"mean": 0.305, "deviation": 0.045, "bins": 1024}}
TRAPS = {"curious-abandon-honesty": {"neurons": 1024}}


def _experiment(attack: Mapping[str, object], defences: list[object]) -> Experiment:
    return Experiment.of(
        "active",
        seed=0,
        dataset={"name": "digits", "partition": {"kind": "quantity", "sizes": [EACH] * CLIENTS}},
        model={"name": "mlp", "hidden": [32]},
        federation={
            "algorithm": "fedsgd",
            "clients": CLIENTS + 1,
            "rounds": 1,
            "batch_size": EACH,
            "optimiser": {"lr": 0.1},
        },
        threat_model={"server": "malicious", "knows": ["architecture"]},
        attacks=[{name: {**options, "clients": list(range(CLIENTS))} for name, options in attack.items()}],  # type: ignore[dict-item]
        cells=[{"name": "cell", "defences": defences}],
    )


def _psnr(folder: Path, attack: Mapping[str, object], defences: list[object]) -> Measure:
    (name,) = attack
    return _experiment(attack, defences).run(folder)["cell"].scores[name].measures["psnr"]


@pytest.mark.slow
@pytest.mark.parametrize("attack", [ATTACK, TRAPS], ids=lambda attack: next(iter(attack)))
def test_local_noise_takes_back_what_a_malicious_server_reads(attack: Mapping[str, object], tmp_path: Path) -> None:
    plain = _psnr(tmp_path / "plain", attack, [])
    assert plain.value > (plain.baseline or 0) + 30
    private = _psnr(tmp_path / "private", attack, [{"dp-sgd": {"bound": 1.0, "noise_multiplier": 1.0}}])
    assert private.value <= (private.baseline or 0) + 1


@pytest.mark.slow
def test_what_was_tapped_with_a_planted_model_is_refused_when_a_run_goes_on_without_that(tmp_path: Path) -> None:
    experiment = _experiment(ATTACK, [])
    experiment.run(tmp_path)
    with pytest.raises(CheckpointError, match="planted model, which is lost when a run stops; run again without --resume"):
        experiment.run(tmp_path, resume=True)
