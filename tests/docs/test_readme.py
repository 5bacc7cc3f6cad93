"""The README says what is true of the checkout: plugin table, refusals, links, commands."""

from __future__ import annotations

import importlib
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from tests.docs.blocks import PAGES, ROOT
from tests.docs.runner import execute

README = (ROOT / "README.md").read_text()
FENCE = r"```{language}\n(.*?)```\n"
BLOCKS = re.findall(FENCE.format(language="yaml"), README, re.DOTALL)
VERDICT = re.compile(FENCE.format(language="yaml") + r"(?:(?!```).)*?" + FENCE.format(language="text"), re.DOTALL)
VERDICTS = list(VERDICT.finditer(README))


def between(mark: str) -> str:
    """What stands between ``<!-- mark -->`` and ``<!-- /mark -->``."""
    found = re.search(rf"<!-- {mark} -->\n(.*?)<!-- /{mark} -->", README, re.DOTALL)
    assert found, f"README.md lacks <!-- {mark} --> ... <!-- /{mark} -->"
    return found[1]


def plugin_table(monkeypatch: pytest.MonkeyPatch) -> str:
    """The table of every technique that the checkout's distributions offer, read from their light modules."""
    rows = []
    for file in sorted(ROOT.glob("plugins/*/*/pyproject.toml")):
        monkeypatch.syspath_prepend(str(file.parent))
        project = tomllib.loads(file.read_text())["project"]
        points = {(group, name): module for group, p in project.get("entry-points", {}).items() for name, module in p.items()}
        home = file.parent.relative_to(ROOT).as_posix()
        for module in sorted(set(points.values())):
            for spec in importlib.import_module(module).sparring_plugins():
                assert (f"sparring.{spec.kind}", spec.name) in points, f"{home} has no entry point for {spec.name}"
                summary = spec.summary.rstrip(".").replace("|", "\\|")
                row = (spec.kind, spec.name, f"[{project['name']}]({home})", summary[0].upper() + summary[1:])
                rows.append(row)
    lines = [f"| `{name}` | {kind.rstrip('s')} | {home} | {summary} |" for kind, name, home, summary in sorted(rows)]
    return "\n".join(["| name | kind | distribution | what it is |", "|---|---|---|---|", *lines]) + "\n"


def test_the_plugin_table_is_what_the_checkout_offers(monkeypatch: pytest.MonkeyPatch) -> None:
    table = plugin_table(monkeypatch)
    assert between("plugins") == table, f"put this between the markers in README.md:\n{table}"


@pytest.mark.parametrize("match", VERDICTS, ids=lambda match: f"line-{README[: match.start()].count(chr(10)) + 1}")
def test_a_verdict_in_the_readme_is_what_check_prints(match: re.Match[str]) -> None:
    from sparring.experiment import Experiment
    from sparring.schema import File

    resolved = Experiment(File.model_validate(yaml.safe_load(match[1])), "readme").resolve()["readme"]
    printed = "\n".join(line.rstrip() for line in resolved.explain().strip().splitlines()) + "\n"
    assert match[2] == printed, f"put this into README.md:\n{printed}"


def test_every_experiment_in_the_readme_has_a_verdict() -> None:
    assert len(BLOCKS) == len(VERDICTS) >= 3


def test_the_quickstart_table_has_a_row_for_each_cell() -> None:
    from sparring.report import COLUMNS

    head, _, *rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in between("quickstart").splitlines()]
    assert tuple(head) == COLUMNS
    cells = [cell["name"] for cell in yaml.safe_load((ROOT / "experiments" / "quickstart.yaml").read_text())["cells"]]
    assert [row[0] for row in rows if row[0]] == cells, "put the table of `make demo`, runs/quickstart/table.md, into README.md"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_local_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text())
    # the pages of the reference are made when the site is built; tests of the built site follow links to them
    made = [link for link in links if "reference" in (page.parent / link).parent.parts]
    missing = [link for link in links if link not in made and "://" not in link and not (page.parent / link).exists()]
    assert not missing, f"{page.name} links to {', '.join(missing)}, which is not there"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_make_targets_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", page.read_text())) <= targets


def test_commands_in_the_readme_exist() -> None:
    from sparring.cli import app
    from sparring.registry import entries

    known = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    known |= {entry.name for entry in entries() if entry.kind == "commands"}
    assert set(re.findall(r"sparring ([a-z-]+)[ `]", between("commands"))) == known


@pytest.mark.slow
def test_the_page_works_as_written(tmp_path: Path) -> None:
    outputs = execute(ROOT / "README.md", tmp_path)
    (printed,) = (text for block, text in outputs if block.language == "python")
    accuracy = float(printed.splitlines()[-1].split()[0])
    assert 0 < accuracy <= 1
    assert "type-checks: dp-sgd" in printed
