"""`sparring new`: a plugin of each kind, from an empty folder to an experiment, beside the wheel of core and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sparring.testing.scaffold import KINDS
from tests.packaging.conftest import PIP, ROOT, clean_environment, ran

pytestmark = pytest.mark.packaging
NAMES = {kind: f"my-{kind}" for kind in KINDS}
EXPERIMENT = """
dataset: {name: my-dataset, size: 400, partition: {kind: iid}}
model: {name: my-model}
federation: {clients: 6, rounds: 3, optimiser: {lr: 0.5}}
threat_model: {compromised: {clients: [1]}}
attacks: [{my-attack: {scale: 2.0}}]
defences: [{my-defence: {bound: 0.5}}, {my-aggregator: {f: 1}}]
engine: {name: my-engine}
"""


@pytest.fixture(scope="module")
def author(wheels: dict[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An author's virtual environment with core and six plugins that `sparring new` made, and the folder that holds them."""
    place = tmp_path_factory.mktemp("author")
    python = clean_environment(place / "venv", wheels, "hatchling", f"{wheels[ROOT]}[authors]")
    assert ran(python, "-c", "import sparring; print(sparring.__file__)", cwd=place).startswith(str(place))
    for kind, name in NAMES.items():
        ran(python, "-m", "sparring", "new", kind, name, "--into", "plugins", cwd=place)
    made = sorted((place / "plugins").iterdir())
    ran(python, *PIP, "--no-build-isolation", "--no-deps", *made, cwd=place)
    return python, place


def test_they_are_listed_and_none_is_broken(author: tuple[Path, Path]) -> None:
    python, place = author
    listed = json.loads(ran(python, "-m", "sparring", "list", "--verify", "--json", cwd=place))
    found = {(row["kind"], row["name"]): row["state"] for row in listed if row["kind"] != "commands"}
    assert found == {(f"{kind}s", name): "ok" for kind, name in NAMES.items()}


def test_they_run_in_one_experiment(author: tuple[Path, Path]) -> None:
    python, place = author
    (place / "six.yaml").write_text(EXPERIMENT)
    checked = ran(python, "-m", "sparring", "check", "six.yaml", cwd=place)
    assert "type-checks: federated averaging >> my-defence >> my-aggregator" in checked
    ran(python, "-m", "sparring", "run", "six.yaml", cwd=place)
    table = (place / "runs" / "six" / "table.md").read_text()
    assert "my-attack" in table


@pytest.mark.parametrize("name", NAMES.values())
def test_each_is_checked_reproduced_and_green(author: tuple[Path, Path], name: str) -> None:
    python, place = author
    rows = json.loads(ran(python, "-m", "sparring", "check-plugin", name, "--json", cwd=place))
    assert sum(row["result"] == "passed" for row in rows) > 10
    assert not [row for row in rows if row["result"] == "failed"]
    assert "1 of 1 cards hold" in ran(python, "-m", "sparring", "reproduce", name, cwd=place)
    assert "1 of 1 core lines make their card fall" in ran(
        python, "-m", "sparring", "reproduce", name, "--without-core", cwd=place
    )
    assert " passed" in ran(python, "-m", "pytest", "-q", "-p", "no:cacheprovider", cwd=place / "plugins" / f"sparring-{name}")


@pytest.mark.parametrize("name", NAMES.values())
def test_each_passes_the_linter_and_strict_types_unedited(author: tuple[Path, Path], name: str) -> None:
    python, place = author
    home = place / "plugins" / f"sparring-{name}"
    ran(python, "-m", "ruff", "check", ".", cwd=home)
    ran(python, "-m", "ruff", "format", "--check", ".", cwd=home)
    ran(python, "-m", "mypy", f"sparring_{name.replace('-', '_')}", "tests", cwd=home)
