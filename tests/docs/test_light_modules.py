"""What may be imported where: light modules load nothing heavy, and core names no plugin."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = ("torch", "numpy", "scipy", "pandas", "sklearn", "torchvision", "torchmetrics", "mlflow", "matplotlib")
LIGHT = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"][1]["source_modules"]
DISTRIBUTIONS = sorted(ROOT.glob("plugins/*/*/pyproject.toml"))


def loaded(modules: list[str], paths: list[Path], forbidden: tuple[str, ...]) -> dict[str, list[str]]:
    """Each module with what of ``forbidden`` is loaded once it is, in a process of its own and in the order given."""
    code = (
        "import importlib, json, sys\n"
        "found = {}\n"
        f"for name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        f"    found[name] = sorted(set({forbidden!r}) & sys.modules.keys())\n"
        "print(json.dumps(found))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env=environment, timeout=60
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def light_modules(pyproject: Path) -> set[str]:
    """The modules that a distribution's entry points name."""
    groups = tomllib.loads(pyproject.read_text())["project"].get("entry-points", {})
    return {
        point.partition(":")[0]
        for group, points in groups.items()
        if group.startswith("sparring.")
        for point in points.values()
    }


def test_light_modules_of_core_load_nothing_heavy() -> None:
    assert {name: heavy for name, heavy in loaded(LIGHT, [ROOT / "core"], HEAVY).items() if heavy} == {}


def test_the_package_and_discovery_do_without_pydantic() -> None:
    found = loaded(["sparring", "sparring.registry"], [ROOT / "core"], (*HEAVY, "pydantic"))
    assert found == {"sparring": [], "sparring.registry": []}


def test_light_modules_of_plugins_load_nothing_heavy() -> None:
    modules = sorted(set().union(*map(light_modules, DISTRIBUTIONS)))
    paths = [ROOT / "core", *(file.parent for file in DISTRIBUTIONS)]
    assert {name: heavy for name, heavy in loaded(modules, paths, HEAVY).items() if heavy} == {}


@pytest.mark.parametrize("pyproject", DISTRIBUTIONS, ids=lambda file: file.parent.name)
def test_entry_points_name_the_light_module(pyproject: Path) -> None:
    (package,) = pyproject.parent.glob("sparring_*/")
    assert light_modules(pyproject) == {f"{package.name}.plugin"}


def imported(file: Path) -> set[str]:
    """Top-level packages that a module imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module)
    return {name.partition(".")[0] for name in found}


def test_core_imports_no_plugin() -> None:
    packages = {folder.name for file in DISTRIBUTIONS for folder in file.parent.glob("sparring_*/")}
    for file in (ROOT / "core").rglob("*.py"):
        strangers = {name for name in imported(file) if name in packages or name.startswith("sparring_")}
        assert not strangers, f"{file.relative_to(ROOT)} imports {', '.join(sorted(strangers))}; core knows no plugin"
