"""One plugin of each role, written once for each API and never changed: every later core of that API runs it."""

from __future__ import annotations

import abc
import dataclasses
import importlib
import json
import math
import sys
import tomllib
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sparring.hookspecs import hookimpl
from sparring.registry import KIND_NAMES, TECHNIQUES, Broken, Entry, find, load
from sparring.sites import Site
from sparring.specs import API, AnySpec, Config, DefenceSpec
from sparring.testing import cases
from sparring.testing.cards import read_card, reproduce
from sparring.testing.experiments import outcome
from sparring.testing.kit import Inapplicable
from tests.api.contract import contract, described, freeze, hashes, lost

DATA = Path(__file__).parents[1] / "data"
FOLDERS = sorted(DATA.glob("api*"))
NOW = [folder for folder in FOLDERS if folder.name == f"api{API}"]
RAN_AT_LEAST = 12
"""Checks that must find something to test in each technique, cards and packaging among them."""
NOWHERE_YET = {Site.START, Site.TRAINER, Site.AGGREGATE, Site.EXCHANGE}
"""Sites at which no defence of API 1 stands; no trainer of core runs EXCHANGE."""
Run = Mapping[str, Any]


def points(folder: Path) -> dict[str, dict[str, str]]:
    """The entry points of a frozen distribution, by kind."""
    groups = tomllib.loads((folder / "pyproject.toml").read_text())["project"]["entry-points"]
    return {group.removeprefix("sparring."): values for group, values in groups.items()}


def techniques(folder: Path) -> list[tuple[str, str]]:
    """Kind and name of each."""
    return [(kind, name) for kind, names in points(folder).items() if kind in TECHNIQUES for name in names]


def runs(folder: Path) -> list[Path]:
    return sorted((folder / "experiments").glob("*.yaml"))


def each_folder(folders: Iterable[Path]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("folder", [pytest.param(folder, id=folder.name) for folder in folders])


each_installed = pytest.mark.parametrize("frozen", [pytest.param(f, id=f.name) for f in NOW], indirect=True, scope="module")
each_technique = pytest.mark.parametrize(
    ("frozen", "kind", "name"),
    [pytest.param(f, kind, name, id=f"{f.name}-{name}") for f in NOW for kind, name in techniques(f)],
    indirect=["frozen"],
    scope="module",
)
each_run = pytest.mark.parametrize(
    ("frozen", "path"),
    [pytest.param(f, path, id=f"{f.name}-{path.stem}") for f in NOW for path in runs(f)],
    indirect=["frozen"],
    scope="module",
)


def test_this_api_has_a_frozen_copy() -> None:
    assert NOW, f"core offers API {API}: write tests/data/api{API}, and leave the older folders as they are"


@each_folder(FOLDERS)
def test_nothing_frozen_has_changed(folder: Path) -> None:
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert hashes(folder) == manifest, "frozen: write a new copy for a new API number, never edit this one"


def test_what_is_frozen_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "plugin.py").write_text("first")
    freeze(tmp_path)
    assert set(json.loads((tmp_path / "MANIFEST.json").read_text())) == {"plugin.py", "contract.json"}
    with pytest.raises(SystemExit, match="frozen already"):
        freeze(tmp_path)


@each_folder(NOW)
def test_the_contract_still_holds_what_it_held(folder: Path) -> None:
    before = json.loads((folder / "contract.json").read_text())
    gone = list(lost(before, contract()))
    assert not gone, f"plugins of {folder.name} break; give API a new number, or keep:\n" + "\n".join(gone)


@each_folder(NOW)
def test_every_role_and_site_has_a_plugin(folder: Path) -> None:
    assert set(points(folder)) == set(KIND_NAMES)


def spec_of(folder: Path, kind: str, name: str) -> Any:
    entry = find(name, [kind])
    assert entry.distribution == "sparring-frozen"
    spec = load(entry)
    assert not isinstance(spec, Broken), spec.reason
    assert spec.api == int(folder.name.removeprefix("api"))
    return spec


@each_technique
def test_it_loads_and_passes_the_whole_kit(frozen: Path, kind: str, name: str) -> None:
    spec = spec_of(frozen, kind, name)
    module = importlib.import_module(points(frozen)[kind][name])
    ran, failures = 0, []
    for case in cases(module):
        if (case.subject.spec.kind, case.subject.spec.name) == (kind, name):
            assert case.subject.spec is spec or case.subject.spec == spec
            try:
                case.run()
            except Inapplicable:
                continue
            except AssertionError as error:
                failures.append(str(error))
            ran += 1
    assert not failures, "\n\n".join(failures)
    assert ran >= RAN_AT_LEAST


@each_technique
def test_its_card_holds(frozen: Path, kind: str, name: str) -> None:
    found = reproduce(read_card(points(frozen)[kind][name], name))
    assert found.holds, found.rows


@each_installed
def test_defences_stand_at_every_site(frozen: Path) -> None:
    specs = [spec_of(frozen, kind, name) for kind, name in techniques(frozen) if kind == "defences"]
    assert {layer.site for spec in specs for layer in spec.layers} == set(Site) - NOWHERE_YET


@each_installed
def test_its_command_joins_the_others(frozen: Path) -> None:
    from sparring.cli import app

    ((name, _),) = points(frozen)["commands"].items()
    result = CliRunner().invoke(app, [name, "defences"])
    assert (result.exit_code, result.output.strip()) == (0, str(len(points(frozen)["defences"])))


@each_folder(NOW)
def test_its_runs_use_every_technique(folder: Path) -> None:
    used = {name for path in runs(folder) for name in names_in(yaml.safe_load(path.read_text())["experiment"])}
    implied = {"frozen-zcdp"}
    assert {name for _, name in techniques(folder)} <= used | implied


def names_in(value: Any) -> Iterable[str]:
    """Every text and key in nested values."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from (key, *names_in(item))
    elif isinstance(value, list):
        for item in value:
            yield from names_in(item)


def without(experiment: Run, name: str) -> dict[str, Any]:
    """The experiment without a technique."""

    def kept(items: list[Any]) -> list[Any]:
        return [item for item in items if name not in (item, *(item if isinstance(item, dict) else ()))]

    return {**experiment, **{section: kept(experiment[section]) for section in ("attacks", "defences")}}


@each_run
def test_it_runs_learns_and_every_layer_acts(frozen: Path, path: Path) -> None:
    run = yaml.safe_load(path.read_text())
    found = outcome(**run["experiment"])
    assert found.accuracy is not None
    assert found.accuracy >= run["floor"]
    assert all(math.isfinite(loss) for _, _, loss in found.history)
    acted = {name: cost.acted for name, cost in found.costs.items()}
    assert all(acted[name] == found.costs[name].rounds > 0 for name in run["acts"]), acted
    assert not set(run.get("elsewhere", ())) & set(acted)
    assert all(any(note.startswith(start) for note in found.notes) for start in run.get("notes", ()))
    assert all(math.isfinite(epsilon) and epsilon > 0 for epsilon in found.epsilon.values())
    assert set(found.epsilon) == set(run.get("epsilon", ()))
    values = {label: score.measures[score.headline].value for label, score in found.scores.items()}
    assert all(values[label] >= least for label, least in run.get("scores", {}).items()), values
    for name in run.get("missed", ()):
        other = outcome(**without(run["experiment"], name))
        assert (other.history, other.scores) != (found.history, dict(found.scores)), f"without {name} all is the same"


def refused(number: int, monkeypatch: pytest.MonkeyPatch) -> Broken:
    """What becomes of a defence that is written for another API."""
    module: Any = types.ModuleType("written_for_another")
    spec = DefenceSpec(api=number, name="other", config=Config, summary="of another API", layers=tuple(_layers()))

    @hookimpl
    def sparring_plugins() -> Iterable[AnySpec]:
        return (spec,)

    module.sparring_plugins = sparring_plugins
    monkeypatch.setitem(sys.modules, module.__name__, module)
    found = load(Entry("defences", "other", module.__name__, "sparring-other", f"{number}.0"))
    assert isinstance(found, Broken)
    return found


def _layers() -> Iterable[Any]:
    from sparring.specs import Layer

    def build(config: Config) -> Any:
        raise AssertionError(f"nothing is built of {config}")

    yield Layer(site=Site.UPDATE, build=build)


@pytest.mark.parametrize(("number", "update"), [(API + 1, "sparring"), (API - 1, "sparring-other")])
def test_another_api_is_refused_with_both_numbers_and_what_to_update(
    number: int, update: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = refused(number, monkeypatch).reason
    assert f"API {number}" in reason
    assert f"API {API}" in reason
    assert reason.endswith(f"update {update}")


def test_additions_with_defaults_break_nothing_and_all_else_is_named() -> None:
    @dataclasses.dataclass
    class Old:
        a: int
        b: int = 0

        def f(self, x: int, y: int = 0) -> None: ...

    @dataclasses.dataclass
    class Longer(Old):
        c: int = 0

        def f(self, x: int, y: int = 0, z: int = 0) -> None: ...

        def g(self) -> None: ...

    @dataclasses.dataclass
    class Other:
        b: int
        d: int

        def f(self, z: int) -> None: ...

    for kind in (Old, Longer, Other):
        kind.__module__ = "sparring.signals"
    old, longer, other = ({"Old": described(kind)} for kind in (Old, Longer, Other))
    assert list(lost(old, longer)) == []
    assert list(lost(old, other)) == [
        "Old: a is gone",
        "Old: b has no default any more",
        "Old: d is new and has no default",
        "Old: by position it took a, b; now b, d",
        "Old.f: x is gone",
        "Old.f: y is gone",
        "Old.f: z is new and has no default",
        "Old.f: by position it took self, x, y; now self, z",
    ]
    assert list(lost({"f": {"arguments": []}, "s": {"values": ["x", "y"]}}, {"s": {"values": ["y"]}})) == [
        "f is gone",
        "s: 'x' is gone",
    ]


def test_what_plugins_implement_is_given_the_same_arguments_and_asked_for_no_more() -> None:
    class Role(abc.ABC):
        @abc.abstractmethod
        def f(self, x: int) -> None: ...

    class Asking(Role):
        @abc.abstractmethod
        def f(self, x: int, y: int = 0) -> None: ...

        @abc.abstractmethod
        def g(self) -> None: ...

    for kind in (Role, Asking):
        kind.__module__ = "sparring.roles"
    assert list(lost({"Role": described(Role)}, {"Role": described(Asking)})) == [
        "Role.g must be implemented now",
        "Role.f is called with self, x, y; plugins take self, x",
    ]
