"""What a run leaves behind: sheets on which reconstructions stand under what they are held against."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from sparring.report import publish
from sparring.run import Outcome
from sparring.scoring import Measure, Score
from sparring.tracking import Tracker


def scored(frames: bool) -> Outcome:
    x = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    progress = [[(k, own + 1 / k) for k in (2, 4)] for own in x] if frames else []
    score = Score("psnr", {"psnr": Measure(20.0, 10.0)}, list(zip(x, x, strict=True)), x.mean(0), progress)
    return Outcome("An outcome, noisy", accuracy=0.5, sights={"look": "runs"}, scores={"look": score})


def published(outcome: Outcome, folder: Path) -> list[str]:
    run = Tracker.open(f"sqlite:///{folder / 'runs.db'}", "test", folder).start("it")
    return [path.name for path in publish([outcome], folder, run)]


def size(path: Path) -> tuple[int, int]:
    with Image.open(path) as picture:
        return picture.size


def test_progress_is_shown_where_an_attack_kept_it(tmp_path: Path) -> None:
    assert published(scored(True), tmp_path) == ["look.png", "look, progress, an-outcome-noisy.png"]
    still, film = (size(tmp_path / "pictures" / name) for name in ("look.png", "look, progress, an-outcome-noisy.png"))
    # originals, the reconstruction, grey and the mean; and originals, then two moments
    assert film[1] < still[1]
    assert film[0] == still[0]


def test_nothing_is_shown_of_an_attack_that_kept_nothing(tmp_path: Path) -> None:
    assert published(scored(False), tmp_path) == ["look.png"]
