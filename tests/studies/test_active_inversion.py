"""A malicious server's inversion through whole runs: aggregates give up their inputs, and local noise takes them back."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring import Experiment
from sparring.scoring import Measure

CLIENTS, EACH = 4, 8
ATTACK = {"robbing-the-fed": {"mean": 0.305, "deviation": 0.045, "bins": 1024}}
TRAPS = {"curious-abandon-honesty": {"neurons": 1024}}


def _psnr(folder: Path, attack: dict[str, object], defences: list[object]) -> Measure:
    experiment = Experiment.of(
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
    (name,) = attack
    return experiment.run(folder)["cell"].scores[name].measures["psnr"]


@pytest.mark.slow
@pytest.mark.parametrize("attack", [ATTACK, TRAPS], ids=lambda attack: next(iter(attack)))
def test_local_noise_takes_back_what_a_malicious_server_reads(attack: dict[str, object], tmp_path: Path) -> None:
    plain = _psnr(tmp_path / "plain", attack, [])
    assert plain.value > (plain.baseline or 0) + 30
    private = _psnr(tmp_path / "private", attack, [{"dp-sgd": {"bound": 1.0, "noise_multiplier": 1.0}}])
    assert private.value <= (private.baseline or 0) + 1
