"""Every experiment file of the checkout names what is there, with options that exist, and type-checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparring import Experiment

ROOT = Path(__file__).parents[2] / "experiments"
FILES = sorted(ROOT.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_an_experiment_file_type_checks(path: Path) -> None:
    for name, cell in Experiment.load(path).resolve().items():
        assert cell.ok, f"cell '{name}': {cell.explain()}"
        granted = {label: str(sight) for label, sight in cell.sights.items() if sight.outcome == "ungranted"}
        assert not granted, f"cell '{name}': {granted}"
