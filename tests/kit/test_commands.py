"""The commands of authors: what they print, and how they end."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sparring.cli import app
from sparring.errors import ConfigError, PluginError, SparringError
from sparring.registry import Entry
from sparring.testing import commands
from tests.kit.mutants_cards import distribution

Invoke = Callable[..., tuple[int, str]]


@pytest.fixture
def invoke() -> Invoke:
    """Run a command in this process: its status and what it prints; an error that a user can mend is raised."""

    def run(*arguments: str) -> tuple[int, str]:
        ended = CliRunner().invoke(app, arguments)
        if isinstance(ended.exception, SparringError):
            raise ended.exception
        return ended.exit_code, ended.output

    return run


def test_check_plugin_prints_each_check_and_a_count(invoke: Invoke) -> None:
    status, printed = invoke("check-plugin", "norm-clip")
    assert status == 0
    assert "passed        norm-clip::clipped-given\n" in printed
    assert printed.splitlines()[-1].endswith(" 0 failed")


def test_check_plugin_takes_a_distribution_and_gives_json(invoke: Invoke) -> None:
    status, printed = invoke("check-plugin", "sparring-secagg", "--json")
    rows = json.loads(printed)
    assert status == 0
    assert {row["technique"] for row in rows} == {"masked-sum"}
    assert {row["result"] for row in rows} <= {"passed", "inapplicable"}
    assert all(row["seconds"] >= 0 for row in rows)


def test_check_plugin_tries_the_examples_that_it_is_given(invoke: Invoke, tmp_path: Path) -> None:
    _, printed = invoke("check-plugin", "norm-clip", "--example", '{"bound": 0.25}')
    assert " 0 failed" in printed
    with pytest.raises(ConfigError, match=r"--example of norm-clip\.bound is -1"):
        invoke("check-plugin", "norm-clip", "--example", '{"bound": -1}')
    with pytest.raises(ConfigError, match="is no JSON object"):
        invoke("check-plugin", "norm-clip", "--example", "bound=1")


def test_check_plugin_of_nothing_that_is_installed_is_refused(invoke: Invoke) -> None:
    with pytest.raises(PluginError, match="did you mean 'norm-clip'"):
        invoke("check-plugin", "norm-clib")


def test_reproduce_prints_expected_against_got(invoke: Invoke) -> None:
    status, printed = invoke("reproduce", "norm-clip")
    assert status == 0
    assert "largest norm over C: expected 1 +- 1e-06 (closed-form), got" in printed
    assert printed.endswith("1 of 1 cards hold\n")


def test_reproduce_without_core_succeeds_when_every_card_fails(invoke: Invoke) -> None:
    status, printed = invoke("reproduce", "norm-clip", "--without-core")
    assert status == 0
    assert "  ! largest norm over C" in printed
    assert printed.endswith("1 of 1 core lines make their card fall\n")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make the technique of a module all that is installed."""

    def install(module: str) -> None:
        entry = Entry("defences", "layer", module, "sparring-layer", "1.0")
        monkeypatch.setattr(commands, "_entries", lambda name: [entry])

    return install


def test_a_number_that_is_off_ends_with_status_1(invoke: Invoke, installed: Callable[[str], None]) -> None:
    installed(distribution(value=7))
    status, printed = invoke("reproduce", "layer")
    assert status == 1
    assert "OFF       layer" in printed
    assert "  ! twice three: expected 7 +- 0 (closed-form), got 6" in printed


def test_a_card_that_stands_without_its_core_line_ends_with_status_1(invoke: Invoke, installed: Callable[[str], None]) -> None:
    installed(distribution(measure="def measure():\n    return {{'twice three': 6}}\n"))
    status, printed = invoke("reproduce", "layer", "--without-core", "--json")
    assert status == 1
    assert [row["ok"] for row in json.loads(printed)] == [False]


def test_a_measurement_that_fails_and_a_card_that_is_missing_are_named(
    invoke: Invoke, installed: Callable[[str], None]
) -> None:
    installed(distribution(measure="def measure():\n    return {{'twice three': 1 / 0}}\n"))
    status, printed = invoke("reproduce", "layer")
    assert (status, "raised ZeroDivisionError: division by zero" in printed) == (1, True)
    installed(distribution(card=False))
    status, printed = invoke("reproduce", "layer")
    assert (status, "has no reference card: write layer.card.yaml" in printed) == (1, True)


def test_cards_that_state_more_time_are_left_out(invoke: Invoke, installed: Callable[[str], None]) -> None:
    installed(distribution())
    status, printed = invoke("reproduce", "layer", "--within", "0.5")
    assert status == 0
    assert "left out  layer: its card states 1 s" in printed
    assert "0 of 0 cards hold" in printed


def test_a_card_that_cannot_be_measured_here_is_counted_apart(invoke: Invoke, installed: Callable[[str], None]) -> None:
    absent = "from sparring.testing import Inapplicable\n\n\ndef measure():\n    raise Inapplicable('no data at hand')\n"
    installed(distribution(measure=absent))
    for flags, what in (((), "cards hold"), (("--without-core",), "core lines make their card fall")):
        status, printed = invoke("reproduce", "layer", *flags)
        assert status == 0
        assert "unseen    layer" in printed
        assert printed.endswith(f"0 of 1 {what}; 1 cannot be measured here\n")
