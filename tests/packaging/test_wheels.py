"""Every distribution builds, carries what it must, and works from its wheel in a place without the checkout."""

from __future__ import annotations

import json
import os
import re
import sys
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import sparring
from sparring.registry import scan
from tests.packaging.conftest import DISTRIBUTIONS, ROOT, ran, target

pytestmark = pytest.mark.packaging
TINY = """
dataset: {name: digits}
model: {name: mlp}
federation: {clients: 4, rounds: 2}
defences: [{norm-clip: {bound: 1.0}}, median]
"""


@pytest.fixture(scope="module")
def installed(wheels: dict[Path, Path], others: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A search path with all wheels installed beside third-party packages, and without the checkout."""
    return os.pathsep.join(map(str, (target(tmp_path_factory.mktemp("installed"), wheels.values()), others)))


def contents(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_a_wheel_carries_its_package_and_nothing_else(wheels: dict[Path, Path], folder: Path) -> None:
    names = contents(wheels[folder])
    (package,) = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    assert package == "sparring" or package.startswith("sparring_")
    assert f"{package}/py.typed" in names
    assert folder == ROOT or f"{package}/plugin.py" in names
    source = (ROOT / "core" if folder == ROOT else folder) / package
    assert {f"{package}/{file.relative_to(source).as_posix()}" for file in source.rglob("*.py")} <= set(names)
    strays = [name for name in names if "/tests/" in name or "__pycache__" in name or "/test_" in name]
    assert [name for name in strays if not name.startswith("sparring/template/")] == []


def test_the_template_of_plugins_is_in_the_wheel_of_core(wheels: dict[Path, Path]) -> None:
    source = ROOT / "templates" / "plugin"
    wanted = {f"sparring/template/{file.relative_to(source).as_posix()}" for file in source.rglob("*") if file.is_file()}
    assert wanted == {name for name in contents(wheels[ROOT]) if name.startswith("sparring/template/")} != set()


@pytest.mark.parametrize("folder", DISTRIBUTIONS, ids=lambda folder: folder.name)
def test_versions_are_lock_step_and_dependencies_have_floors_and_no_caps(wheels: dict[Path, Path], folder: Path) -> None:
    with zipfile.ZipFile(wheels[folder]) as archive:
        (path,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        metadata = Parser().parsestr(archive.read(path).decode())
    assert metadata["Version"] == sparring.__version__
    required = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert required
    assert [line for line in required if not re.fullmatch(r"[\w-]+(\[[\w,]+\])?>=[\d.]+", line)] == []


def test_the_catalogue_is_in_the_wheel_of_core_and_not_in_the_source_tree(wheels: dict[Path, Path]) -> None:
    with zipfile.ZipFile(wheels[ROOT]) as archive:
        catalogue = json.loads(archive.read("sparring/catalogue.json"))
    assert catalogue == scan(ROOT / "plugins") != {}
    assert not (ROOT / "core" / "sparring" / "catalogue.json").exists()


def test_core_alone_knows_what_to_install(wheels: dict[Path, Path], installed: str, tmp_path: Path) -> None:
    core, others = tmp_path / "core", installed.split(os.pathsep)[1]
    with zipfile.ZipFile(wheels[ROOT]) as archive:
        archive.extractall(core)
    code = "from sparring.registry import find\nfrom sparring.errors import PluginError\n"
    code += "try:\n    find('norm-clip', ['defences'])\nexcept PluginError as error:\n    print(error)"
    out = ran(sys.executable, "-S", "-c", code, cwd=tmp_path, path=os.pathsep.join((str(core), others)))
    assert "pip install sparring-dp" in out


def test_installed_wheels_are_listed_with_their_versions(installed: str, tmp_path: Path) -> None:
    listed = json.loads(ran(sys.executable, "-S", "-m", "sparring", "list", "--json", cwd=tmp_path, path=installed))
    expected = set()
    for folder in DISTRIBUTIONS:
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        for group, points in project["entry-points"].items():
            expected |= {
                (group.removeprefix("sparring."), name, f"{project['name']} {sparring.__version__}") for name in points
            }
    assert {(row["kind"], row["name"], row["distribution"]) for row in listed} == expected


def test_a_tiny_experiment_runs_from_the_wheels(installed: str, tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    code = "import sys, sparring, sparring_digits; print(sparring.__file__, sparring_digits.__file__)"
    assert str(ROOT) not in ran(sys.executable, "-S", "-c", code, cwd=tmp_path, path=installed)
    out = ran(sys.executable, "-S", "-m", "sparring", "run", "tiny.yaml", cwd=tmp_path, path=installed)
    assert "mlflow ui" in out
    assert "| tiny |" in (tmp_path / "runs" / "tiny" / "table.md").read_text()
