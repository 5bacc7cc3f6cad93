"""The built site: links lead somewhere, nothing is loaded from a network, and the reference holds all that there is."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main
import yaml
from pydantic import BaseModel

from sparring import facts, hookspecs, roles, signals, sites, specs, views
from sparring.cli import app
from sparring.schema import File

ROOT = Path(__file__).parents[2]
DISTRIBUTIONS = sorted(ROOT.glob("plugins/*/*/pyproject.toml"))
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src", "video": "src", "object": "data"}
"""Elements by which a page loads something, with the attribute that says what."""

pytestmark = pytest.mark.slow


class Html(HTMLParser):
    """What a page links to, what it loads, its anchors, and its text by section (an `h2` or `h3` until the next)."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.links: list[str] = []
        self.loads: list[str] = []
        self.sections: dict[str, str] = {"": ""}
        self.codes: dict[str, set[str]] = {"": set()}
        self._here: tuple[str, ...] = ("",)
        self._code: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if given.get("id"):
            self.anchors.add(str(given["id"]))
        if tag in ("h2", "h3") and given.get("id"):
            own = str(given["id"])
            # a section of level 3 is part of the section of level 2 that it stands in
            self._here = (own,) if tag == "h2" else (self._here[0], own)
            self.sections.setdefault(own, "")
            self.codes.setdefault(own, set())
        if tag == "code":
            self._code = ""
        if tag == "a" and given.get("href"):
            self.links.append(str(given["href"]))
        if tag in LOADED and given.get(LOADED[tag]) and given.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(str(given[LOADED[tag]]))

    def handle_endtag(self, tag: str) -> None:
        if tag == "code" and self._code is not None:
            for section in self._here:
                self.codes[section].add(self._code)
            self._code = None

    def handle_data(self, data: str) -> None:
        if self._code is not None:
            self._code += data
        for section in self._here:
            self.sections[section] += data


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it, with every road to a network closed."""
    made = tmp_path_factory.mktemp("site")
    closed = dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(made)],
        check=False,
        cwd=ROOT,
        env={**os.environ, **closed, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Html]:
    return {file.relative_to(site).as_posix(): Html(file.read_text()) for file in site.rglob("*.html")}


def test_every_source_is_a_page_and_nothing_else_is_published(site: Path, pages: dict[str, Html]) -> None:
    sources = {file.relative_to(ROOT / "docs").with_suffix(".html").as_posix() for file in (ROOT / "docs").rglob("*.md")}
    assert sources <= set(pages)
    assert not [*site.rglob("*.py"), *site.rglob("*.md"), *site.rglob("*.yaml")]


def test_links_lead_to_pages_and_anchors(site: Path, pages: dict[str, Html]) -> None:
    dead = []
    for name, page in pages.items():
        for link in [*page.links, *page.loads]:
            if re.match(r"[a-z]+:", link) or name == "404.html":
                continue
            path, _, anchor = link.partition("#")
            target = (site / name).parent / path if path else site / name
            target = target / "index.html" if target.is_dir() else target
            known = pages.get(os.path.relpath(target, site))
            if not target.exists() or (anchor and known and anchor not in known.anchors):
                dead.append(f"{name}: {link}")
    assert dead == []


def test_nothing_is_loaded_from_a_network(site: Path, pages: dict[str, Html]) -> None:
    for name, page in pages.items():
        assert [load for load in page.loads if re.match(r"([a-z]+:)?//", load)] == [], name
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", (site / name).read_text()), name
    for sheet in site.rglob("*.css"):
        assert not re.search(r"@import|url\(\s*['\"]?(https?:)?//", sheet.read_text()), sheet.name
    # the theme's script would fetch a drawing library for such blocks, and facts about a repository that is named
    assert not any("mermaid" in (site / name).read_text() for name in pages)
    assert not any('data-md-component="source"' in (site / name).read_text() for name in pages)


def classes(module: Any, base: type = object) -> Iterator[type]:
    for name, thing in vars(module).items():
        if inspect.isclass(thing) and issubclass(thing, base) and thing.__module__ == module.__name__ and name[0] != "_":
            yield thing


def test_hooks_are_documented(pages: dict[str, Html]) -> None:
    page = pages["reference/hooks.html"]
    for owner in (hookspecs.DistributionHooks, hookspecs.RunHooks):
        for name, hook in vars(owner).items():
            if hasattr(hook, f"{hookspecs.PROJECT}_spec"):
                assert hook.__doc__.strip().splitlines()[0].replace("``", "") in page.sections[name]


def test_sites_are_documented(pages: dict[str, Html]) -> None:
    assert {site.name for site in sites.Site} | {site.label for site in sites.Site} <= pages["reference/sites.html"].codes[""]


def test_facts_are_documented_with_polarity_and_values(pages: dict[str, Html]) -> None:
    page = pages["reference/facts.html"]
    for polarity in (facts.Guarantee, facts.Exposure, facts.Setting):
        for fact in classes(facts, polarity):
            if fact is polarity:
                continue
            assert fact.__name__ in page.sections[polarity.__name__.lower()]
            own = page.codes[fact.__name__.lower()]
            assert {field.name for field in dataclasses.fields(fact)} <= own
            assert {value for values in facts.closed_fields(fact).values() for value in values} <= own


@pytest.mark.parametrize(
    ("page", "found"),
    [
        ("signals", [vars(signals)[name] for name in signals.__all__ if inspect.isclass(vars(signals)[name])]),
        ("views", list(classes(views))),
        ("roles", list(classes(roles))),
        ("specs", list(classes(specs))),
    ],
)
def test_classes_are_documented_with_their_fields(page: str, found: list[type], pages: dict[str, Html]) -> None:
    built = pages[f"reference/{page}.html"]
    for cls in found:
        assert cls.__name__.lower() in built.sections, f"{page} lacks {cls.__name__}"
        if dataclasses.is_dataclass(cls):
            missing = {field.name for field in dataclasses.fields(cls)} - built.codes[cls.__name__.lower()]
            assert not missing, f"{cls.__name__} lacks {missing}"


def sections(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Every field of the experiment file, with the path of the section that holds it."""
    for name, field in model.model_fields.items():
        yield path, name
        todo: list[Any] = [field.annotation]
        for annotation in todo:
            todo += get_args(annotation)
            if isinstance(annotation, type) and issubclass(annotation, BaseModel):
                yield from sections(annotation, f"{path}.{name}".lstrip("."))


def test_fields_of_the_experiment_file_are_documented(pages: dict[str, Html]) -> None:
    page = pages["reference/experiment.html"]
    for path, name in sections(File):
        # a technique, which may be named at several places, is described once
        own = path.replace(".", "-") or "the-top-level"
        at = own if own in page.codes else "model"
        assert name in page.codes[at], f"{path}.{name} is not in the reference"


def test_commands_are_documented_with_their_options(pages: dict[str, Html]) -> None:
    page = pages["reference/commands.html"]
    group: Any = typer.main.get_command(app)
    context = group.make_context("sparring", [], resilient_parsing=True)
    names = group.list_commands(context)
    assert {"list", "show", "check", "run", "schema"} <= set(names)
    for name in names:
        assert f"sparring {name}" in page.sections[name]
        for parameter in group.get_command(context, name).params:
            shown = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.name.upper()
            assert shown in page.codes[name], f"{name} lacks {shown}"


@pytest.mark.parametrize("pyproject", DISTRIBUTIONS, ids=lambda file: file.parent.name)
def test_techniques_of_the_checkout_are_documented(pyproject: Path, pages: dict[str, Html]) -> None:
    points = tomllib.loads(pyproject.read_text())["project"].get("entry-points", {})
    for module in {point for group in points.values() for point in group.values()}:
        for spec in importlib.import_module(module).sparring_plugins():
            page = pages[f"reference/{spec.kind}.html"]
            assert spec.summary.replace("`", "") in " ".join(page.sections[spec.name].split())
            for name, field in spec.config.model_fields.items():
                assert name in page.codes[spec.name], f"{spec.name} lacks {name}"
                words = " ".join(str(field.description).replace("`", "").split())
                assert words in " ".join(page.sections[spec.name].split()), f"{spec.name}.{name} is not described"


def test_reference_cards_of_the_checkout_are_documented(pages: dict[str, Html]) -> None:
    everything = " ".join(" ".join(page.sections.values()) for page in pages.values())
    for file in ROOT.glob("plugins/*/*/*/*.card.yaml"):
        card = yaml.safe_load(file.read_text())
        assert f"sparring reproduce {card['technique']}" in everything
        for row in card["expected"]:
            assert row["quantity"] in everything, f"{file.name}: {row['quantity']} is not in the reference"
