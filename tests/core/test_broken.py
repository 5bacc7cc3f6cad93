"""A broken plugin in the environment leaves every other command working, and is named with the fix."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """
from sparring.hookspecs import hookimpl
from sparring.sites import Site
from sparring.specs import DefenceSpec, Empty, Layer

LAYER = Layer(site=Site.UPDATE, build=lambda config: None)
"""
OFFER = """

@hookimpl
def sparring_plugins():
    return (DefenceSpec(api={api}, name='{name}', config=Empty, summary='it', layers=(LAYER,)),)
"""
GOOD = SPEC + OFFER


def good(name: str, api: int = 1) -> str:
    return GOOD.format(name=name, api=api)


BROKEN = {
    "lacking": ("import a_package_that_is_not_there\n", "No module named 'a_package_that_is_not_there'; install what it lacks"),
    "leaving": ("raise SystemExit(3)\n", "importing it raised SystemExit: 3; install what it lacks, or update or uninstall"),
    "newer": (good("newer", 2), "it is written for API 2, this core offers API 1: update sparring"),
    "older": (good("older", 0), "it is written for API 0, this core offers API 1: update sparring-older"),
    "numberless": (good("numberless").replace("api=1, ", ""), "argument: 'api'"),
    "unmarked": (good("unmarked").replace("@hookimpl\n", ""), "is not marked @hookimpl, so it would never run; put @hookimpl"),
    "misnamed": (good("another"), "offers no DefenceSpec of that name; give one, or drop the entry point"),
    "heavy": (
        "import torch\n" + good("heavy"),
        "its light module imports torch, which list and check must do without: import it in",
    ),
    "heavier": ("import torch.nn\n" + good("heavier"), "its light module imports torch"),
}
"""What is wrong with a plugin of each name, and what must be said of it."""
EXPERIMENT = "dataset: {name: digits}\nmodel: {name: mlp}\nfederation: {clients: 4, rounds: 1}\ndefences: [norm-clip]\n"


def distribution(site: Path, name: str, points: str, **modules: str) -> None:
    info = site / f"sparring_{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: sparring-{name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(points)
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of distributions, each broken in its own way."""
    place = tmp_path_factory.mktemp("site")
    for name, (text, _) in BROKEN.items():
        distribution(place, name, f"[sparring.defences]\n{name} = broken_{name}\n", **{f"broken_{name}": text})
    for owner in ("one", "two"):
        points = f"[sparring.defences]\ntwin = twin_{owner}\n[sparring.commands]\ntwins = twin_{owner}:command\n"
        distribution(place, owner, points, **{f"twin_{owner}": good("twin")})
    distribution(
        place, "tools", "[sparring.commands]\nlost = broken_lacking:command\nblank = twin_one:nothing\nrun = twin_one:x\n"
    )
    return place


def sparring(site: Path, cwd: Path, *arguments: str, status: int = 0) -> str:
    """What a command prints, standard output and error, in an environment with the broken plugins."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), *sys.path]), "COLUMNS": "200", "HOME": str(cwd)}
    done = subprocess.run(
        [sys.executable, "-m", "sparring", *arguments],
        check=False, cwd=cwd, env=environment, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def verified(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """What `sparring list --verify` says of each name."""
    printed = sparring(site, tmp_path_factory.mktemp("here"), "list", "--verify", "--json")
    states: dict[str, list[str]] = {}
    for row in json.loads(printed):
        states.setdefault(row["name"], []).append(row["state"])
    return states


@pytest.mark.parametrize("name", BROKEN)
def test_it_is_named_with_what_is_wrong_and_the_fix(verified: dict[str, list[str]], name: str) -> None:
    (state,) = verified[name]
    assert state.startswith("broken: ")
    assert BROKEN[name][1] in state


def test_two_that_offer_one_name_are_named_and_the_rest_is_fine(verified: dict[str, list[str]]) -> None:
    assert verified["twin"] == ["broken: another distribution offers this name; uninstall one"] * 2
    assert verified["twins"] == verified["twin"]
    assert "install what it lacks" in verified["lost"][0]
    assert "names no function; write `module:function`" in verified["blank"][0]
    assert "is a command of core; rename it" in verified["run"][0]
    others = set(verified) - set(BROKEN) - {"twin", "twins", "lost", "blank", "run"}
    assert len(others) > 30
    assert {state for name in others for state in verified[name]} == {"ok"}


@pytest.mark.parametrize("name", [*(name for name in BROKEN if not name.startswith("heav")), "twin"])
def test_an_experiment_that_names_it_is_refused_with_the_fix(site: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "x.yaml").write_text(EXPERIMENT.replace("norm-clip", name))
    said = sparring(site, tmp_path, "check", "x.yaml", status=2)
    fix = "a name must be unique: uninstall one" if name == "twin" else BROKEN[name][1]
    assert fix in said
    assert "Traceback" not in said


@pytest.mark.parametrize("arguments", [
    ("list",),
    ("list", "defences"),
    ("show", "norm-clip"),
    ("check", "x.yaml"),
    ("schema",),
    ("check-plugin", "norm-clip"),
    ("reproduce", "norm-clip"),
    ("new", "model", "mine"),
    pytest.param(("run", "x.yaml"), marks=pytest.mark.slow),
], ids=lambda arguments: arguments[0])  # fmt: skip
def test_every_other_command_works(site: Path, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "x.yaml").write_text(EXPERIMENT)
    sparring(site, tmp_path, *arguments)


def test_help_lists_the_broken_commands_as_such_and_a_broken_one_ends_with_the_fix(site: Path, tmp_path: Path) -> None:
    printed = sparring(site, tmp_path, "--help")
    assert "check-plugin" in printed
    assert "(broken:" in printed
    assert "install what it lacks" in sparring(site, tmp_path, "lost", status=2)
    twice = sparring(site, tmp_path, "twins", status=2)
    assert twice.startswith("error: 'twins' is offered by ")
    assert "uninstall one" in twice


def test_hints_after_a_failure_come_from_what_loads(site: Path, tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(EXPERIMENT.replace("norm-clip", "gauss-noise"))
    said = sparring(site, tmp_path, "check", "x.yaml", status=2)
    assert "norm-clip" in said
