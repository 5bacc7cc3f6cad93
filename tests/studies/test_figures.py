"""Figures of studies: every cell is a point of the curve that its name says, and nothing is drawn of nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from experiments import figures


def run(folder: Path) -> Path:
    for batch in (8, 1, 4):
        for attack in ("dlg", "other"):
            measure = {"value": 30.0 - batch, "baseline": 10.0, "interval": [29.0 - batch, 31.0 - batch]}
            scores = {"look": {"headline": "psnr", "measures": {"psnr": measure}}}
            cell = folder / "cells" / f"{attack}-{batch}"
            cell.mkdir(parents=True)
            (cell / "outcome.json").write_text(json.dumps({"name": f"{attack}, batch {batch}", "scores": scores}))
    return folder


def test_cells_are_points_of_curves_in_order(tmp_path: Path) -> None:
    found = figures.curves(run(tmp_path), r"batch (\d+)", "psnr")
    assert list(found) == ["dlg", "other"]
    assert [(p.x, p.value, p.low, p.high, p.baseline) for p in found["dlg"]] == [
        (1, 29, 28, 30, 10), (4, 26, 25, 27, 10), (8, 22, 21, 23, 10),
    ]  # fmt: skip


def test_a_figure_is_drawn_with_its_closed_forms(tmp_path: Path) -> None:
    into = tmp_path / "figure.png"
    assert figures.main([str(run(tmp_path)), "--x", r"batch (\d+)", "--log", "--psnr-law", "4", "--into", str(into)]) == 0
    with Image.open(into) as picture:
        assert picture.width > 500


def test_it_says_which_noise_is_enough(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = [str(run(tmp_path)), "--x", r"batch (\d+)", "--into", str(tmp_path / "figure.png"), "--at-most"]
    assert figures.main([*asked, "15", "--psnr-law", "4.2"]) == 0
    assert "a noise multiplier of 0.0599" in capsys.readouterr().out
    for wrong in (["15"], ["5", "--psnr-law", "4.2"]):
        assert figures.main([*asked, *wrong]) == 2


@pytest.mark.parametrize(("x", "measure"), [("round", "psnr"), (r"batch (\d+)", "auc"), (r"batch \d+", "psnr"), ("(", "psnr")])
def test_nothing_to_draw_is_said_and_nothing_written(
    x: str, measure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    into = tmp_path / "figure.png"
    assert figures.main([str(run(tmp_path)), "--x", x, "--measure", measure, "--into", str(into)]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not into.exists()
