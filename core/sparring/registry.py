"""Discovery: what is installed, read from entry points alone, and specs loaded only when something names them."""

from __future__ import annotations

import functools
import importlib
import json
import tomllib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from sparring.errors import PluginError, did_you_mean

if TYPE_CHECKING:
    from sparring.specs import Spec

PREFIX = "sparring."
KIND_NAMES = (
    "attacks",
    "defences",
    "aggregators",
    "trainers",
    "datasets",
    "models",
    "accountants",
    "hosts",
    "engines",
    "commands",
)
HEAVY = ("torch", "numpy", "scipy", "pandas", "sklearn", "torchvision", "mlflow", "matplotlib")
"""Packages that no light module may import: they take seconds, and `list` and `check` do without them."""
TECHNIQUES = tuple(kind for kind in KIND_NAMES if kind != "commands")


@dataclass(frozen=True, order=True)
class Entry:
    """An installed technique: its kind and name, the light module to ask, and who distributes it."""

    kind: str
    name: str
    module: str
    distribution: str
    version: str

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


@dataclass(frozen=True)
class Broken:
    """What could not be loaded, why, and what to do: a value, and an error only when something needs it."""

    entry: Entry
    reason: str


@functools.cache
def entries() -> tuple[Entry, ...]:
    """Every installed technique, sorted; imports no plugin."""
    found = []
    for distribution in metadata.distributions():
        for point in distribution.entry_points:
            if point.group.startswith(PREFIX) and point.group.removeprefix(PREFIX) in KIND_NAMES:
                kind = point.group.removeprefix(PREFIX)
                found.append(Entry(kind, point.name, point.value, distribution.name, distribution.version))
    return tuple(sorted(set(found)))


@functools.cache
def catalogue() -> dict[str, str]:
    """Techniques that exist, installed or not, each with its distribution: from the wheel, or from the checkout around core."""
    shipped = Path(__file__).with_name("catalogue.json")
    if shipped.exists():
        return dict(json.loads(shipped.read_text()))
    return scan(Path(__file__).parents[2] / "plugins")


def scan(plugins: Path) -> dict[str, str]:
    """Technique to distribution, read from the ``pyproject.toml`` files under a folder of plugins."""
    found: dict[str, str] = {}
    for file in sorted(plugins.glob("*/*/pyproject.toml")):
        project = tomllib.loads(file.read_text())["project"]
        for group, points in project.get("entry-points", {}).items():
            if group.startswith(PREFIX):
                found.update(dict.fromkeys(points, project["name"]))
    return found


def find(name: str, kinds: Iterable[str]) -> Entry:
    """The entry of a technique among ``kinds``; raises `PluginError` with what to install, or what was meant."""
    kinds = tuple(kinds)
    found = [entry for entry in entries() if entry.name == name and entry.kind in kinds]
    if len(found) > 1:
        raise PluginError(
            f"'{name}' is offered by {' and '.join(map(str, found))}; a name must be unique: uninstall one of them"
        )
    if found:
        return found[0]
    what = " or ".join(kind.rstrip("s") for kind in kinds)
    if name in catalogue():
        raise PluginError(f"no {what} '{name}' is installed: pip install {catalogue()[name]}")
    raise PluginError(f"no {what} '{name}' is installed; {did_you_mean(name, [e.name for e in entries() if e.kind in kinds])}")


@functools.cache
def load(entry: Entry) -> Spec[Any] | Broken:
    """The spec behind an entry, or why there is none. Imports the distribution's light module."""
    from sparring.manager import distribution_specs
    from sparring.specs import API, KINDS

    module = _imported(entry)
    if isinstance(module, Broken):
        return module
    try:
        specs = distribution_specs(module, entry)
    except PluginError as error:
        return Broken(entry, str(error))
    except Exception as error:
        return Broken(
            entry, f"its sparring_plugins raised {type(error).__name__}: {error}; mend or uninstall {entry.distribution}"
        )
    matching = [spec for spec in specs if spec.name == entry.name and spec.kind == entry.kind]
    if not matching:
        what = KINDS[entry.kind].__name__
        return Broken(entry, f"its module {entry.module} offers no {what} of that name; give one, or drop the entry point")
    if matching[0].api != API:
        older = entry.distribution if matching[0].api < API else "sparring"
        return Broken(entry, f"it is written for API {matching[0].api}, this core offers API {API}: update {older}")
    return matching[0]


@functools.cache
def load_command(entry: Entry) -> Callable[..., Any] | Broken:
    """The function behind a command that a distribution adds, or why there is none."""
    module = _imported(entry)
    if isinstance(module, Broken):
        return module
    name = entry.module.partition(":")[2]
    found = getattr(module, name, None)
    if not callable(found):
        return Broken(entry, f"its entry point is {entry.module!r}, which names no function; write `module:function`")
    command: Callable[..., Any] = found
    return command


def _imported(entry: Entry) -> ModuleType | Broken:
    """The module of an entry; whatever importing it raises is its author's fault, and no reason to end here."""
    try:
        return importlib.import_module(entry.module.partition(":")[0])
    except (Exception, SystemExit) as error:
        reason = f"importing it raised {type(error).__name__}: {error}"
        return Broken(entry, f"{reason}; install what it lacks, or update or uninstall {entry.distribution}")


def require(name: str, kinds: Iterable[str]) -> tuple[Spec[Any], Entry]:
    """The spec of a technique, or `PluginError`."""
    entry = find(name, kinds)
    spec = load(entry)
    if isinstance(spec, Broken):
        raise PluginError(f"'{name}' of {entry} cannot be loaded: {spec.reason}")
    return spec, entry
