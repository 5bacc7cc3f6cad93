"""CONTRIBUTING.md, followed to the letter: its files and its commands make a plugin that passes the kit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SECTION = PAGE[: PAGE.index("## Rules")]
INSTALL, IN_PLACE = "-m pip install", " -e "


def files() -> dict[str, str]:
    """The files that the page writes: a line that opens with a path, and the next code block."""
    found = re.findall(r"^`(plugins/[\w/.]+)`((?:(?!```|\n`plugins/).)*)```\w+\n(.*?)```\n", SECTION, re.DOTALL | re.MULTILINE)
    return {path: text for path, _, text in found}


def commands() -> Iterator[str]:
    """The lines of the page's shell blocks."""
    for block in re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL):
        yield from block.splitlines()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder that looks like the checkout: its configuration, core, and virtual environment, and no plugins."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tmp_path / "core").symlink_to(ROOT / "core")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def test_the_page_makes_a_whole_distribution() -> None:
    made = {path.rpartition("value_clip/")[2] for path in files()}
    assert {"pyproject.toml", "README.md", "__init__.py", "plugin.py", "value_clip.py", "test_value_clip.py"} <= {
        Path(path).name for path in made
    }
    assert not (ROOT / "plugins" / "defences" / "value_clip").exists()


@pytest.mark.packaging
def test_the_page_works_as_written(checkout: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    target = tmp_path_factory.mktemp("installed")
    environment = {**os.environ, "PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}

    def run(command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command], check=False, cwd=checkout, env=environment, capture_output=True, text=True, timeout=170
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}\n{done.stderr}"
        return done.stdout

    making = [command for command in commands() if ".venv/" not in command]
    using = [command for command in commands() if ".venv/" in command]
    assert [IN_PLACE in command for command in using if INSTALL in command] == [True]
    for command in making:
        run(command)
    for path, text in files().items():
        (checkout / path).write_text(text)
    printed = ""
    for command in using:
        # the environment that runs these tests stays as it is
        printed += run(command.replace(IN_PLACE, f" --no-index --target {target} ") if INSTALL in command else command)
    assert "value-clip (defence, sparring-value-clip" in printed
    assert re.search(r"\d\d+ passed", printed), printed
    (experiment,) = re.findall(r"```yaml\n(.*?)```", SECTION, re.DOTALL)
    assert yaml.safe_load(experiment)["defences"]
    (checkout / "value-clip.yaml").write_text(experiment)
    verdict = run(".venv/bin/sparring check value-clip.yaml")
    assert "type-checks: federated averaging >> value-clip >> mean (default)" in verdict
    assert "+Clipped(linf, client, all, bound=0.05)" in verdict
