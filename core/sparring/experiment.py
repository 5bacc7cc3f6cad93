"""Experiments: a file, or the same built from objects, checked and run cell by cell."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from sparring.errors import CheckpointError, CompositionError, ConfigError, EffectError, NumericalError
from sparring.files import slug, write_bytes
from sparring.resolve import Resolved, resolve
from sparring.schema import File, validated

if TYPE_CHECKING:
    from sparring.run import Outcome
    from sparring.tracking import Run, Tracker

Progress = Callable[[str, float], None]


def silent(text: str, fraction: float) -> None:
    """No progress bar."""
    del text, fraction


@dataclass(frozen=True)
class Results:
    """What a run came to: an outcome a cell, where it is written, and how to open the tracking store."""

    name: str
    outcomes: tuple[Outcome, ...]
    folder: Path
    pictures: tuple[Path, ...]
    ui: str

    def __getitem__(self, cell: str) -> Outcome:
        return next(outcome for outcome in self.outcomes if outcome.name == cell)

    @property
    def failed(self) -> tuple[Outcome, ...]:
        """Cells that ended with an error."""
        return tuple(outcome for outcome in self.outcomes if outcome.error)


@dataclass(frozen=True)
class Experiment:
    """A validated experiment. ``objects`` holds parts given as Python objects in place of plugin names.

    >>> from sparring import Experiment
    >>> experiment = Experiment.load("experiments/quickstart.yaml")   # doctest: +SKIP
    >>> results = experiment.run()                                   # doctest: +SKIP
    """

    file: File
    name: str = "experiment"
    objects: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path, overrides: Sequence[str] = ()) -> Experiment:
        """Read a YAML file and apply ``key=value`` overrides. Raises `ConfigError`."""
        path = Path(path)
        try:
            values = yaml.safe_load(path.read_text())
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}; name an experiment file") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is no YAML: {error}") from error
        if not isinstance(values, dict):
            raise ConfigError(f"{path} holds {type(values).__name__}; an experiment file is a mapping of sections")
        for override in overrides:
            _override(values, override)
        return cls(validated(File, values, ""), path.stem)

    @classmethod
    def of(cls, name: str = "experiment", *, dataset: Any, model: Any, **sections: Any) -> Experiment:
        """An experiment from objects: ``dataset`` a name, mapping or `Dataset`; ``model`` those or a module factory."""
        from sparring.objects import as_plugin

        objects: dict[str, Any] = {}
        for kind, given in (("dataset", dataset), ("model", model)):
            made = as_plugin(kind, given)
            sections[kind] = {"name": given} if isinstance(given, str) else given if made is None else {"name": made.name}
            if made is not None:
                objects[kind] = made
        if "partition" in sections:
            sections["dataset"] = {**sections["dataset"], "partition": sections.pop("partition")}
        return cls(validated(File, sections, ""), name, objects)

    @property
    def cells(self) -> dict[str, File]:
        """The file of each cell, by name: the base with the cell's top-level keys replaced or, for mappings, merged."""
        if not self.file.cells:
            return {self.name: self.file}
        base = self.file.model_dump(mode="json", exclude={"cells"}, exclude_unset=True)
        found: dict[str, File] = {}
        for k, cell in enumerate(self.file.cells):
            name = str(cell.get("name", f"cell {k}"))
            if slug(name) in map(slug, found):
                raise ConfigError(
                    f"cells.{k}.name is {name!r}, and another cell's results lie in '{slug(name)}' too; names must differ in "
                    "letters or digits"
                )
            for key in {"cells", "tracking"} & set(cell):
                raise ConfigError(f"cells.{name}.{key} is no option here; it is the whole experiment's")
            found[name] = validated(File, _merged(base, {k: v for k, v in cell.items() if k != "name"}), f"cells.{name}")
        return found

    def resolve(self) -> dict[str, Resolved]:
        """Each cell with its plugins loaded and its stack checked; nothing is raised for a stack that does not type-check."""
        return {name: resolve(file, self.objects) for name, file in self.cells.items()}

    def run(
        self, folder: str | Path | None = None, *, resume: bool = False, strict: bool = False, progress: Progress = silent
    ) -> Results:
        """Run every cell and log it. Everything is checked, and data and models are built, before anything is written."""
        from sparring import checkpoint
        from sparring.build import build
        from sparring.report import publish
        from sparring.run import identity_of
        from sparring.tracking import Tracker

        place = Path(folder) if folder is not None else Path("runs") / self.name
        resolved = self.resolve()
        faults = [f"cell '{name}': {cell.explain()}" for name, cell in resolved.items() if not cell.ok]
        if faults:
            raise CompositionError("\n\n".join(faults))
        for name, cell in resolved.items():
            progress(f"{name}: preparing", 0.0)
            made = build(cell, silent)
            made.strategy.close()
            if resume:
                checkpoint.load(place / "cells" / slug(name) / "checkpoint", identity_of(made))
        tracker = Tracker.open(self.file.tracking.uri, self.file.tracking.experiment, place)
        runs = _Runs(tracker, place / "tracking.json", resume)
        if not resume and place.exists():
            shutil.rmtree(place / "cells", ignore_errors=True)
        parent = runs.open(self.name, None, self.file)
        outcomes = []
        try:
            for name, cell in resolved.items():
                run = parent if len(resolved) == 1 else runs.open(name, parent.id, cell.file)
                outcomes.append(_cell(cell, name, place / "cells" / slug(name), run, resume, strict, progress))
                if run is not parent:
                    run.finish("FAILED" if outcomes[-1].error else "FINISHED")
            pictures = publish(outcomes, place, parent)
        except BaseException:
            parent.finish("FAILED")
            raise
        parent.finish("FAILED" if any(o.error for o in outcomes) else "FINISHED")
        return Results(self.name, tuple(outcomes), place, pictures, tracker.ui_command())


def _cell(cell: Resolved, name: str, folder: Path, run: Run, resume: bool, strict: bool, progress: Progress) -> Outcome:
    from sparring.build import build
    from sparring.report import log_cell
    from sparring.run import Outcome, as_json, run_cell
    from sparring.run import strict as check_strict

    built = build(cell, progress)
    try:
        outcome = run_cell(built, name, folder, run, resume)
        if strict:
            check_strict(outcome)
    except (NumericalError, EffectError) as error:
        outcome = Outcome(name, error=str(error))
    log_cell(cell, outcome, run)
    write_bytes(folder / "outcome.json", json.dumps(as_json(outcome), indent=2).encode())
    return outcome


class _Runs:
    """The tracking runs of an experiment, remembered beside its results so that a resumed experiment goes on in them."""

    def __init__(self, tracker: Tracker, path: Path, resume: bool) -> None:
        self.tracker, self.path = tracker, path
        try:
            self.known: dict[str, str] = dict(json.loads(path.read_text())) if resume and path.exists() else {}
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{path} is corrupt: {error}; delete it, or run without --resume") from error

    def open(self, name: str, parent: str | None, file: File) -> Run:
        key = "" if parent is None else name
        if key in self.known:
            return self.tracker.resume(self.known[key])
        kind = {"sparring.kind": "experiment" if parent is None else "cell"}
        run = self.tracker.start(name, parent, kind, file.model_dump(mode="json"))
        self.known[key] = run.id
        write_bytes(self.path, json.dumps(self.known).encode())
        return run


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise ConfigError(f"--set {override!r}: write key=value, such as --set federation.rounds=5")
    keys = path.split(".")
    at: Any = values
    for key in keys[:-1]:
        if isinstance(at, list):
            at = _item(at, key, path)
        else:
            if at.get(key) is None:
                at[key] = {}
            at = at[key]
        if not isinstance(at, dict | list):
            raise ConfigError(f"--set {path}: '{key}' holds {at!r}, which has no options")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {path}: {text!r} is no YAML: {error}") from error
    if isinstance(at, list):
        at[_index(at, keys[-1], path)] = value
    else:
        at[keys[-1]] = value


def _index(items: list[Any], key: str, path: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise ConfigError(f"--set {path}: '{key}' must be a position from 0 to {len(items) - 1}")
    return int(key)


def _item(items: list[Any], key: str, path: str) -> Any:
    at = _index(items, key, path)
    if isinstance(items[at], str):
        items[at] = {items[at]: {}}
    return items[at]
