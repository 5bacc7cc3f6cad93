"""Discovery: what is installed is read from entry points alone; what is broken is a value until something needs it."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sparring import registry
from sparring.errors import PluginError
from sparring.hookspecs import hookimpl
from sparring.registry import Broken, Entry, find, load, load_command, require, scan
from sparring.sites import Site
from tests.core.federation import defence, offered, rule

HALVE = defence("halve", Site.UPDATE, lambda signal, ctx: signal)


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make these entries all that is installed, and ``catalogue`` what is known to exist."""

    def _install(*entries: Entry, catalogue: dict[str, str] | None = None) -> None:
        monkeypatch.setattr(registry, "entries", lambda: entries)
        monkeypatch.setattr(registry, "catalogue", lambda: catalogue or {})

    return _install


def test_a_technique_is_found_and_loaded(install: Callable[..., None]) -> None:
    (entry,) = offered([HALVE])
    install(entry)
    assert find("halve", ("defences",)) == entry
    assert require("halve", ("defences", "aggregators")) == (HALVE, entry)


def test_a_technique_of_another_kind_is_not_found(install: Callable[..., None]) -> None:
    install(*offered([HALVE]))
    with pytest.raises(PluginError, match="no attack 'halve' is installed"):
        find("halve", ("attacks",))


def broken_module(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> Entry:
    module = types.ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    return Entry("defences", "halve", name, "sparring-halve", "1.2")


def test_a_plugin_that_fails_to_import_is_a_value(install: Callable[..., None], tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "sparring_broken_one.py").write_text("import a_module_that_is_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    entry = Entry("defences", "halve", "sparring_broken_one", "sparring-halve", "1.2")
    install(entry)
    found = load(entry)
    assert isinstance(found, Broken)
    lack = "importing it raised ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert found.reason == f"{lack}; install what it lacks, or update or uninstall sparring-halve"
    with pytest.raises(PluginError, match=r"'halve' of sparring-halve 1\.2 cannot be loaded: importing it raised"):
        require("halve", ("defences",))


@pytest.mark.parametrize(
    ("name", "members", "reason"),
    [
        (
            "lab_other",
            {"sparring_plugins": hookimpl(lambda: (replace(HALVE, name="double"),))},
            "offers no DefenceSpec of that name",
        ),
        ("lab_kind", {"sparring_plugins": hookimpl(lambda: (rule("halve", object),))}, "offers no DefenceSpec of that name"),
        ("lab_none", {}, "offers no DefenceSpec of that name"),
        ("lab_twice", {"sparring_plugins": hookimpl(lambda: (HALVE, HALVE))}, "offers halve twice among its defences"),
        ("lab_unmarked", {"sparring_plugins": lambda: (HALVE,)}, "is not marked @hookimpl"),
        (
            "lab_newer",
            {"sparring_plugins": hookimpl(lambda: (replace(HALVE, api=2),))},
            "written for API 2, this core offers API 1",
        ),
        ("lab_junk", {"sparring_plugins": hookimpl(lambda: ("halve",))}, "'str' object"),
        ("lab_nothing", {"sparring_plugins": hookimpl(lambda: None)}, "offers no DefenceSpec of that name"),
    ],
)
def test_a_module_that_offers_something_else_is_a_value(
    monkeypatch: pytest.MonkeyPatch, name: str, members: dict[str, Any], reason: str
) -> None:
    found = load(broken_module(monkeypatch, name, **members))
    assert isinstance(found, Broken)
    assert reason in found.reason


def test_a_broken_plugin_does_not_stand_in_the_way_of_another(install: Callable[..., None], monkeypatch: Any) -> None:
    bad = replace(broken_module(monkeypatch, "lab_bad", sparring_plugins=hookimpl(lambda: 1 / 0)), name="bad")
    (good,) = offered([HALVE])
    install(bad, good)
    assert require("halve", ("defences",))[0] is HALVE
    assert isinstance(load(bad), Broken)


def test_two_distributions_that_offer_one_name_are_refused_with_versions(install: Callable[..., None]) -> None:
    install(Entry("defences", "halve", "a", "one", "1.0"), Entry("defences", "halve", "b", "two", "2.0"))
    with pytest.raises(PluginError, match=r"'halve' is offered by one 1\.0 and two 2\.0; a name must be unique: uninstall one"):
        find("halve", ("defences",))


def test_an_unknown_name_gives_what_was_meant(install: Callable[..., None]) -> None:
    install(*offered([HALVE]))
    with pytest.raises(PluginError, match=r"no defence or aggregator 'havle' is installed; did you mean 'halve'\?"):
        find("havle", ("defences", "aggregators"))
    with pytest.raises(PluginError, match="known: halve"):
        find("zzzzz", ("defences",))


def test_a_known_but_absent_name_gives_what_to_install(install: Callable[..., None]) -> None:
    install(*offered([HALVE]), catalogue={"krum": "sparring-aggregation"})
    with pytest.raises(PluginError, match="no aggregator 'krum' is installed: pip install sparring-aggregation"):
        find("krum", ("aggregators",))


def test_the_catalogue_is_read_from_the_distributions_beside_core(tmp_path: Path) -> None:
    folder = tmp_path / "defences" / "halve"
    folder.mkdir(parents=True)
    (folder / "pyproject.toml").write_text(
        '[project]\nname = "sparring-halve"\n[project.entry-points."sparring.defences"]\nhalve = "sparring_halve.plugin"\n'
        '[project.entry-points."console_scripts"]\nother = "a:b"\n'
    )
    assert scan(tmp_path) == {"halve": "sparring-halve"}


def test_every_technique_of_this_checkout_is_in_the_catalogue() -> None:
    checkout = scan(Path(__file__).parents[2] / "plugins")
    assert checkout
    assert set(checkout) <= set(registry.catalogue())


def test_every_installed_technique_loads() -> None:
    loaded = {e.name: load_command(e) if e.kind == "commands" else load(e) for e in registry.entries()}
    assert {name: found.reason for name, found in loaded.items() if isinstance(found, Broken)} == {}
