"""Checks of packaging: light modules, names, entry points."""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from importlib import metadata

from sparring.registry import HEAVY, PREFIX
from sparring.specs import API
from sparring.testing.kit import Inapplicable, check, demand
from sparring.testing.subject import EVERY, Subject


@functools.cache
def _imported(module: str) -> str:
    """Heavy packages that importing a light module loads, in a process of its own; an error text where it fails."""
    code = f"import sys, importlib; importlib.import_module({module!r}); print(*({set(HEAVY)!r} & sys.modules.keys()))"
    paths = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": paths}
    )
    return done.stdout.strip() if done.returncode == 0 else f"nothing: it raised {done.stderr.strip().splitlines()[-1]}"


@check(EVERY)
def light_import(subject: Subject) -> None:
    """Law: importing the light module loads neither torch nor numpy, nor another heavy package.
    Why: `sparring list` and `sparring check` load light modules, and must stay fast and free of torch.
    If this fails: import heavy packages inside the factories, and types under TYPE_CHECKING.
    """
    loaded = _imported(subject.module)
    demand(not loaded, f"importing {subject.module} loads {loaded}")


@check(EVERY)
def kebab_name(subject: Subject) -> None:
    """Law: a technique's name is in kebab-case and unique in its distribution and kind.
    Why: people write it in experiment files, where a second spelling or a second owner is a trap.
    If this fails: rename it, like `norm-clip`.
    """
    name = subject.spec.name
    demand(bool(re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name)), f"its name is {name!r}")
    twins = sum((s.kind, s.name) == (subject.spec.kind, name) for s in subject.siblings)
    demand(twins == 1, f"{twins} of its distribution's {subject.spec.kind} have this name")


@check(EVERY)
def described(subject: Subject) -> None:
    """Law: a spec is written for this core's API, and its summary is one line of at most 140 characters.
    Why: another API is refused when it is loaded; the summary is what `sparring list` shows.
    If this fails: set `summary` to one plain line, and leave `api` to the number that core offers.
    """
    spec = subject.spec
    demand(spec.api == API, f"its api is {spec.api}, core offers {API}")
    summary = spec.summary.strip()
    demand(0 < len(summary) <= 140 and "\n" not in summary, f"its summary is {spec.summary!r} ({len(summary)} characters)")


@check(EVERY)
def entry_point(subject: Subject) -> None:
    """Law: an installed distribution has one entry point for each technique, and no others, at its light module.
    Why: discovery reads entry points alone: a technique without one does not exist, one without a technique is broken.
    If this fails: write `name = "package.plugin"` under [project.entry-points."sparring.<kind>"], and install it again.
    """
    package = subject.module.split(".")[0]
    points = [
        (point.group.removeprefix(PREFIX), point.name, point.value)
        for distribution in metadata.distributions()
        for point in distribution.entry_points
        if point.group.startswith(PREFIX) and point.value.split(".")[0].split(":")[0] == package
    ]
    if not points:
        raise Inapplicable(f"{package} is not installed, or has no entry point at all")
    own = (subject.spec.kind, subject.spec.name, subject.module)
    demand(own in points, f"no entry point sparring.{own[0]}: {own[1]} = {own[2]}; it has {sorted(points)}")
    offered = {(s.kind, s.name, subject.module) for s in subject.siblings}
    stray = sorted(set(points) - offered - {p for p in points if p[0] == "commands"})
    demand(not stray, f"entry points without a technique: {stray}")
