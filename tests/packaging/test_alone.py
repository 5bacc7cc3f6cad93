"""Each distribution works by itself: beside core alone it passes its own tests, and what it declares to need suffices."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.packaging.conftest import PLUGINS, ROOT, clean_environment, project, target

pytestmark = pytest.mark.packaging
TESTS = (
    "-m", "pytest", "-q", "-p", "no:cacheprovider", "--import-mode=importlib", "-W", "error", "-m", "not slow",
    "-o", "markers=slow\ngpu",
)  # fmt: skip
ROTATING = 3


def needed(folder: Path) -> list[Path]:
    """Core, a plugin, and the plugins that it declares to need."""
    names = re.findall(r"sparring-[\w-]+", " ".join(project(folder)["dependencies"]))  # type: ignore[arg-type]
    return [ROOT, folder, *(other for other in PLUGINS if project(other)["name"] in names)]


def printed_by(python: str | Path, folder: Path, place: Path, *flags: str, path: str | None = None) -> str:
    """What a plugin's own tests print, run from a copy of them; failures are in the text."""
    shutil.copytree(folder / "tests", place / "tests")
    (place / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    environment.update({"PYTHONPATH": path} if path else {}, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [python, *flags, *TESTS, "tests"], check=False, cwd=place, env=environment, capture_output=True, text=True, timeout=600
    )
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def alone(wheels: dict[Path, Path], others: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, str]:
    """What each plugin's tests print where core, the plugin and what it declares are all that is there of Sparring."""

    def run(folder: Path) -> str:
        place = tmp_path_factory.mktemp(folder.name)
        own = target(place / "target", [wheels[other] for other in needed(folder)])
        return printed_by(sys.executable, folder, place, "-S", path=os.pathsep.join(map(str, (own, others))))

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(PLUGINS, pool.map(run, PLUGINS), strict=True))


@pytest.mark.parametrize("folder", PLUGINS, ids=lambda folder: folder.name)
def test_a_wheel_beside_core_passes_its_own_tests(alone: dict[Path, str], folder: Path) -> None:
    printed = alone[folder]
    assert re.search(r"\d+ passed", printed), printed
    assert not re.search(r"\d+ (failed|error)", printed), printed


@pytest.mark.parametrize("turn", range(ROTATING))
def test_what_a_plugin_declares_suffices(wheels: dict[Path, Path], tmp_path: Path, turn: int) -> None:
    """Three plugins a day, so that each has its turn; SPARRING_TURN names another day's."""
    day = int(os.environ.get("SPARRING_TURN", datetime.date.today().toordinal()))
    folder = PLUGINS[(ROTATING * day + turn) % len(PLUGINS)]
    python = clean_environment(tmp_path / "venv", wheels, f"{wheels[ROOT]}[testing]", str(wheels[folder]))
    printed = printed_by(python, folder, tmp_path)
    assert re.search(r"\d+ passed", printed), printed
    assert not re.search(r"\d+ (failed|error)", printed), printed
