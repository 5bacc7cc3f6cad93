"""The template of plugins: names that will do, code that no name makes ill-formed, projects that move to a newer one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparring import __version__
from sparring.cli import app
from sparring.errors import ConfigError
from sparring.testing import scaffold as module
from sparring.testing.scaffold import KINDS, LICENCES, repository, scaffold

LENGTHS = ("q", "pl", "plum", "pz", "x1-2y", "zig-zag", "a" * 30, "plugi-" + "z" * 24)
"""Names on either side of `plugin` in the order of imports, short ones, and the longest that are allowed."""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of the test's own: the template's repository lies there."""
    place = tmp_path / "home"
    place.mkdir()
    monkeypatch.setenv("HOME", str(place))
    return place


def git(place: Path, *command: str) -> str:
    named = ("-c", "user.name=Somebody", "-c", "user.email=somebody@example.org", "-c", "commit.gpgsign=false")
    return subprocess.run(["git", *named, *command], cwd=place, check=True, capture_output=True, text=True).stdout


@pytest.mark.parametrize(("name", "said"), [
    ("Value_Clip", "kebab-case"),
    ("value--clip", "kebab-case"),
    ("9lives", "kebab-case"),
    ("a" * 31, "at most 30"),
    ("cards", "choose another"),
    ("class", "choose another"),
    ("updates", "would name its class Updates"),
    ("norm-clip", "sparring-dp .* offers already"),
])  # fmt: skip
def test_a_name_that_will_not_do_is_refused_and_nothing_is_written(tmp_path: Path, name: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        scaffold("defence", name, tmp_path / "made")
    assert not (tmp_path / "made" / f"sparring-{name}").exists()


def test_another_kind_or_licence_and_a_folder_in_use_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"kind is 'defense'.*did you mean 'defence'"):
        scaffold("defense", "zig-zag", tmp_path)
    with pytest.raises(ConfigError, match="licence is 'GPL'"):
        scaffold("defence", "zig-zag", tmp_path, licence="GPL")
    mine = tmp_path / "sparring-zig-zag" / "mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(ConfigError, match="is there already"):
        scaffold("defence", "zig-zag", tmp_path)
    assert mine.read_text() == "mine"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(ConfigError, match=r"cannot write .*file.*: Not a directory; choose a folder"):
        scaffold("model", "zig-zag", file / "within")
    monkeypatch.setenv("HOME", str(file))
    with pytest.raises(ConfigError, match=r"cannot write .*file.*: Not a directory; set HOME"):
        scaffold("model", "zig-zag", tmp_path / "made")


def test_the_repository_of_whoever_calls_it_from_a_hook_stays_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    git(mine, "init", "--quiet")
    git(mine, "commit", "--quiet", "--allow-empty", "-m", "mine")
    before = git(mine, "rev-parse", "HEAD"), git(mine, "status", "--porcelain")
    monkeypatch.setenv("GIT_DIR", str(mine / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(mine))
    place = repository()
    for name in ("GIT_DIR", "GIT_WORK_TREE"):
        monkeypatch.delenv(name)
    assert (git(mine, "rev-parse", "HEAD"), git(mine, "status", "--porcelain")) == before
    assert git(mine, "tag") == ""
    assert git(place, "tag").split() == [f"v{__version__}"]


@pytest.mark.parametrize("licence", LICENCES)
def test_each_licence_is_written_and_named(tmp_path: Path, licence: str) -> None:
    made = scaffold("model", "zig-zag", tmp_path, author="Ada Lovelace", licence=licence)
    text = (made / "LICENSE").read_text()
    assert ("Ada Lovelace" in text) == (licence != "Apache-2.0")
    assert "{" not in text.replace("{yyyy}", "").replace("{name", "")
    spdx = "LicenseRef-Proprietary" if licence == "none" else licence
    assert f'license = "{spdx}"' in (made / "pyproject.toml").read_text()


def test_the_repository_has_a_tag_a_version_and_grows_only_when_the_template_changes(tmp_path: Path, home: Path) -> None:
    place = repository()
    assert place == home / ".local" / "share" / "sparring" / "plugin-template"
    assert git(place, "tag").split() == [f"v{__version__}"]
    first = git(place, "rev-parse", "HEAD")
    repository()
    assert git(place, "rev-parse", "HEAD") == first
    scaffold("model", "zig-zag", tmp_path)
    assert git(place, "status", "--porcelain") == ""


def test_copier_update_moves_a_project_to_a_new_api_number_and_keeps_what_its_author_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = scaffold("defence", "zig-zag", tmp_path)
    answers = (made / ".copier-answers.yml").read_text()
    assert str(tmp_path) not in answers
    plugin, readme = made / "sparring_zig_zag" / "plugin.py", made / "README.md"
    assert "    api=1,\n" in plugin.read_text()
    plugin.write_text(plugin.read_text().replace("0.1, ge=1e-6", "0.7, ge=1e-6"))
    readme.write_text(readme.read_text() + "\nMy own words.\n")
    git(made, "init", "--quiet")
    git(made, "add", "--all")
    git(made, "commit", "--quiet", "-m", "mine")

    newer = tmp_path / "newer"
    newer.mkdir()
    for file in module.template().rglob("*"):
        if file.is_file():
            copy = newer / file.relative_to(module.template())
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(file.read_text().replace("    api=1,\n", "    api=2,\n"))
    monkeypatch.setattr(module, "template", lambda: newer)
    monkeypatch.setattr(module, "__version__", "0.2.0")
    refreshed = CliRunner().invoke(app, ["template"])
    assert "holds the templates of v0.1.0, v0.2.0" in refreshed.output
    updated = subprocess.run(
        [sys.executable, "-m", "copier", "update", "--defaults", "--quiet"],
        cwd=made, env={**os.environ}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert updated.returncode == 0, updated.stderr
    text = plugin.read_text()
    assert "    api=2,\n" in text
    assert "0.7, ge=1e-6" in text
    assert "My own words." in readme.read_text()
    assert "_commit: v0.2.0" in (made / ".copier-answers.yml").read_text()


@pytest.mark.slow
def test_no_name_makes_code_that_the_linter_would_change(tmp_path: Path) -> None:
    for name in LENGTHS:
        for kind in KINDS:
            scaffold(kind, name, tmp_path / kind)
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "."], cwd=tmp_path, check=False, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout


def test_the_command_says_what_to_do_next(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "sparring", "new", "engine", "zig-zag"],
        cwd=tmp_path, check=False, capture_output=True, text=True, env={**os.environ},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "sparring check-plugin zig-zag" in done.stdout
    assert (tmp_path / "sparring-zig-zag" / "sparring_zig_zag" / "plugin.py").exists()
