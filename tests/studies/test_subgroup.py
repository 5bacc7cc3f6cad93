"""Attacks on a subgroup, on real patients' records and on images with a declared proxy group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sparring_backdoor.task import attacked


def test_a_group_of_patients_loses_accuracy_and_the_others_do_not() -> None:
    """actg175 by race: not white, a third of the patients. The control flips nothing."""
    found = {}
    task: dict[str, Any] = {"dataset": {"name": "actg175"}, "model": {"name": "mlp", "hidden": [32]}}
    federation = {"clients": 5, "rounds": 30, "optimiser": {"lr": 0.3}}
    for fraction in (0.0, 1.0):
        entry = {"group": {"column": "race"}, "fraction": fraction}
        outcome = attacked("subgroup-degradation", 1.0, 0, entry=entry, federation=federation, **task)
        found[fraction] = outcome.scores["subgroup-degradation"].measures
    assert found[1.0]["accuracy_gap"].value > found[0.0]["accuracy_gap"].value + 0.2
    assert found[1.0]["group_accuracy"].value < found[0.0]["group_accuracy"].value - 0.2


def test_a_declared_proxy_group_of_images_loses_accuracy(tmp_path: Path) -> None:
    """A file in the format of PneumoniaMNIST: the class shows on the left, brightness varies; the group is `bright`."""
    rng = np.random.default_rng(0)
    held: dict[str, Any] = {}
    for split, n in (("train", 300), ("val", 4), ("test", 200)):
        y = np.arange(n) % 2
        x = rng.integers(0, 60, (n, 28, 28)) + 100 * (np.arange(n)[:, None, None] // 2 % 2)
        x[:, 8:20, 4:12] += 90 * y[:, None, None]
        held |= {f"{split}_images": x.astype(np.uint8), f"{split}_labels": y[:, None].astype(np.uint8)}
    np.savez(tmp_path / "pneumoniamnist.npz", **held)
    dataset = {"name": "medmnist", "root": str(tmp_path), "proxy_group": "brightness"}
    found = {}
    for fraction in (0.0, 1.0):
        outcome = attacked(
            "subgroup-degradation",
            1.0,
            0,
            entry={"group": {"column": "bright"}, "fraction": fraction},
            dataset=dataset,
            model={"name": "mlp", "hidden": [32]},
            federation={"clients": 5, "rounds": 15, "optimiser": {"lr": 0.1}},
        )
        found[fraction] = outcome.scores["subgroup-degradation"].measures
    assert found[0.0]["group_accuracy"].value > 0.9
    assert found[1.0]["accuracy_gap"].value > 0.4
