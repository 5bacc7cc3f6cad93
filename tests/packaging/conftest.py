"""Distributions built once, third-party packages shared, and virtual environments with nothing else in them."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import tomllib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLUGINS = [file.parent for file in sorted(ROOT.glob("plugins/*/*/pyproject.toml"))]
DISTRIBUTIONS = [ROOT, *PLUGINS]
PIP = ("-m", "pip", "--disable-pip-version-check", "install", "--quiet")


def project(folder: Path) -> dict[str, object]:
    """The [project] table of a distribution."""
    found: dict[str, object] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def ran(*command: str | Path, cwd: Path, path: str | None = None, timeout: int = 170, status: int = 0) -> str:
    """Standard output of a command that ends with ``status``; with ``path``, of one that sees only these folders."""
    environment = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "MLFLOW_TRACKING_URI")}
    environment.update({"PYTHONPATH": path} if path else {}, OMP_NUM_THREADS="1", HOME=str(cwd))
    done = subprocess.run(command, check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == status, f"{' '.join(map(str, command))}:\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="session")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Path]:
    """The wheel of each distribution, built from its sdist, by the folder that it was built from."""
    out = tmp_path_factory.mktemp("dist")

    def built(folder: Path) -> Path:
        place = out / project(folder)["name"]  # type: ignore[operator]
        ran(sys.executable, "-m", "build", "--no-isolation", "--outdir", place, folder, cwd=out)
        (wheel,) = place.glob("*.whl")
        assert isinstance(wheel, Path)
        return wheel

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(DISTRIBUTIONS, pool.map(built, DISTRIBUTIONS), strict=True))


@pytest.fixture(scope="session")
def others(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the third-party packages of this environment, without the checkout's distributions."""
    place = tmp_path_factory.mktemp("others")
    for package in Path(sysconfig.get_path("purelib")).iterdir():
        if "sparring" not in package.name and package.suffix != ".pth":
            (place / package.name).symlink_to(package)
    return place


def target(place: Path, wheels: Iterable[Path]) -> Path:
    """``place`` with these wheels, and nothing that they depend on."""
    place.mkdir(exist_ok=True)
    ran(sys.executable, *PIP, "--no-deps", "--no-index", "--target", place, *wheels, cwd=place)
    return place


def clean_environment(place: Path, wheels: dict[Path, Path], *requirements: str) -> Path:
    """The Python of a new virtual environment with these requirements, and with what they declare to depend on."""
    ran(sys.executable, "-m", "venv", place, cwd=place.parent)
    python = place / "bin" / "python"
    found = [f"--find-links={wheel.parent}" for wheel in wheels.values()]
    ran(python, *PIP, "-c", ROOT / "constraints.txt", *found, *requirements, cwd=place, timeout=900)
    return python
