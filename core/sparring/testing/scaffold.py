"""The scaffold: a distribution with one technique, from a copier template that is kept as a local git repository.

`copier update` compares the template at the version that made a project with a newer one, which takes a repository with a tag
for each: every core that runs `sparring new` or `sparring template` adds its own.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from sparring import __version__
from sparring.errors import ConfigError, did_you_mean
from sparring.registry import entries

KINDS = ("attack", "defence", "aggregator", "dataset", "model", "engine")
LICENCES = ("Apache-2.0", "MIT", "BSD-3-Clause", "none")
HOME = "~/.local/share/sparring/plugin-template"
"""Where the repository lies; written like this into projects, so that it means each author's own."""


def scaffold(kind: str, name: str, into: Path, author: str | None = None, licence: str = LICENCES[0]) -> Path:
    """Write the distribution ``sparring-<name>`` into a new folder of ``into``, and return that folder.

    Raises `ConfigError` for a kind, a name or a licence that will not do, and where something is already there.
    """
    for what, value, known in (("kind", kind, KINDS), ("licence", licence, LICENCES)):
        if value not in known:
            raise ConfigError(f"{what} is {value!r}; it must be one of {', '.join(known)}; {did_you_mean(value, known)}")
    owner = next((entry for entry in entries() if entry.name == name and entry.kind == f"{kind}s"), None)
    if owner is not None:
        raise ConfigError(f"name is {name!r}, which {owner} offers already; names must be unique: choose another")
    made = into / f"sparring-{name}"
    if made.exists() and any(made.iterdir()):
        raise ConfigError(f"{made} is there already; delete it, or move it to a newer template with `copier update`")
    answers = {"kind": kind, "name": name, "author": author or _git("config", "user.name") or "The authors", "licence": licence}
    _render(made, answers)
    return made


def _render(made: Path, answers: dict[str, str]) -> None:
    try:
        from copier import run_copy
        from copier.errors import CopierError
    except ImportError:
        raise ConfigError("sparring new needs copier: pip install 'sparring[authors]'") from None
    repository()
    try:
        made.mkdir(parents=True, exist_ok=True)
        run_copy(HOME, made, data=answers, defaults=True, quiet=True, vcs_ref=f"v{__version__}")
    except (CopierError, ValueError) as error:
        shutil.rmtree(made, ignore_errors=True)
        raise ConfigError(f"name is {answers['name']!r}: {_reason(error)}") from error
    except OSError as error:
        shutil.rmtree(made, ignore_errors=True)
        raise ConfigError(f"cannot write {error.filename}: {error.strerror}; choose a folder that you may write") from error


def _reason(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()


def template() -> Path:
    """The template that this core ships: in the wheel, or in the checkout around it."""
    shipped = Path(__file__).parents[1] / "template"
    return shipped if shipped.exists() else Path(__file__).parents[3] / "templates" / "plugin"


def repository() -> Path:
    """The git repository of the template, with this core's template under the tag of its version. Raises `ConfigError`."""
    place = Path(HOME).expanduser()
    try:
        _fill(place)
    except OSError as error:
        raise ConfigError(
            f"cannot write {error.filename}: {error.strerror}; set HOME to a folder that you may write"
        ) from error
    return place


def _fill(place: Path) -> None:
    if not (place / ".git").exists():
        place.mkdir(parents=True, exist_ok=True)
        _git("init", "--quiet", "--initial-branch=main", cwd=place, needed=True)
    for old in place.iterdir():
        if old.name != ".git":
            shutil.rmtree(old) if old.is_dir() else old.unlink()
    shutil.copytree(template(), place, dirs_exist_ok=True)
    _git("add", "--all", "--force", cwd=place, needed=True)
    if _git("status", "--porcelain", cwd=place) or not _git("tag", "--list", f"v{__version__}", cwd=place):
        # a fixed author and date: the same template has the same first commit on every machine
        _git("commit", "--quiet", "--allow-empty", "-m", f"plugin template of sparring {__version__}", cwd=place, needed=True)
        _git("tag", "--force", f"v{__version__}", cwd=place, needed=True)


def versions() -> list[str]:
    """The versions of core whose templates the repository holds."""
    return _git("tag", "--list", "--sort=version:refname", cwd=Path(HOME).expanduser(), needed=True).split()


def _git(*command: str, cwd: Path | None = None, needed: bool = False) -> str:
    fixed = {
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "sparring"), ("EMAIL", "sparring@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
    }
    # GIT_DIR and its like, which a hook of the author's own repository sets, would turn these commands on that repository
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    plain = ("-c", "commit.gpgsign=false", "-c", "tag.gpgsign=false", "-c", "core.hooksPath=/dev/null")
    try:
        done = subprocess.run(
            ["git", *plain, *command], cwd=cwd, env={**inherited, **fixed}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ConfigError("sparring new needs git, which keeps the template's versions; install it") from None
    if needed and done.returncode != 0:
        raise ConfigError(f"git {command[0]} failed in {cwd}: {done.stderr.strip()}; delete that folder and try again")
    return done.stdout.strip()
