"""Reference cards: what a technique's source says, the number to expect, and the function that measures it again."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import CodeType, ModuleType
from typing import Literal

import yaml
from pydantic import Field, model_validator

from sparring import registry
from sparring.errors import ConfigError
from sparring.schema import Section, validated

MODULE = r"^[a-zA-Z_][a-zA-Z0-9_]*(\.[a-zA-Z_][a-zA-Z0-9_]*)*$"


class Paper(Section):
    """Where the technique comes from."""

    authors: str = Field(min_length=2, max_length=300, description="authors, by family name")
    title: str = Field(min_length=2, max_length=300, description="title")
    venue: str = Field(min_length=2, max_length=200, description="venue, journal or report series")
    year: int = Field(ge=1700, le=2200, description="year")
    link: str | None = Field(None, max_length=200, description="arXiv number or DOI")


class Expected(Section):
    """One number to reproduce: a value with its tolerance, or a bound on one side."""

    quantity: str = Field(min_length=2, max_length=120, description="what is measured, as the measuring function names it")
    unit: str = Field("", max_length=40, description="its unit; empty for a pure number")
    origin: Literal["published", "closed-form", "control"] = Field(
        description="published: in the source; closed-form: computed by hand; control: the effect on a small task"
    )
    source: str | None = Field(None, min_length=3, max_length=300, description="where the number stands, if not in `paper`")
    value: float | None = Field(None, ge=-1e30, le=1e30, description="the number")
    tolerance: float | None = Field(None, ge=0, le=1e30, description="largest absolute difference from the value")
    at_least: float | None = Field(None, ge=-1e30, le=1e30, description="least acceptable number")
    at_most: float | None = Field(None, ge=-1e30, le=1e30, description="largest acceptable number")

    @model_validator(mode="after")
    def _one_form(self) -> Expected:
        if (self.value is None) != (self.tolerance is None):
            raise ValueError("value and tolerance go together: a number without a tolerance cannot be checked")
        if (self.value is None) == (self.at_least is None and self.at_most is None):
            raise ValueError("give either value with tolerance, or at_least and at_most (one of them will do)")
        return self

    def holds(self, got: float) -> bool:
        """Whether a measured number is acceptable; NaN never is."""
        if self.value is not None and self.tolerance is not None:
            return abs(got - self.value) <= self.tolerance
        return (self.at_least is None or got >= self.at_least) and (self.at_most is None or got <= self.at_most)

    def __str__(self) -> str:
        unit = f" {self.unit}" if self.unit else ""
        if self.value is not None:
            return f"{self.value:g} +- {self.tolerance:g}{unit}"
        bounds = [f"{sign} {bound:g}" for sign, bound in ((">=", self.at_least), ("<=", self.at_most)) if bound is not None]
        return " and ".join(bounds) + unit


class CoreLine(Section):
    """A line without which the technique is none: the card must fail once it is replaced."""

    module: str = Field(pattern=MODULE, max_length=200, description="module that holds it, such as sparring_mine.mine")
    line: str = Field(min_length=3, max_length=200, description="the line, without its indentation; it stands there once")
    instead: str = Field(
        "pass", min_length=1, max_length=200, description="what stands there instead, so that the code still runs"
    )


class Card(Section):
    """A technique's reference card, `<technique>.card.yaml` beside its module (underscores for hyphens)."""

    technique: str = Field(pattern="^[a-z][a-z0-9-]*$", max_length=80, description="name of the technique")
    paper: Paper = Field(description="where it comes from")
    setting: str = Field(min_length=10, max_length=1000, description="under which conditions the numbers hold")
    unpublished: str | None = Field(
        None, min_length=10, max_length=1000, description="why no published number is checked; required where none is"
    )
    measure: str = Field(
        pattern=MODULE[:-1] + r":[a-zA-Z_][a-zA-Z0-9_]*$", max_length=200, description="function that measures"
    )
    seconds: float = Field(gt=0, le=7 * 86400, description="time that it takes on two cores, with start-up left out")
    expected: tuple[Expected, ...] = Field(min_length=1, max_length=40, description="numbers to reproduce")
    core: tuple[CoreLine, ...] = Field(
        min_length=1,
        max_length=10,
        description="the lines that the numbers stand on: replaced one at a time, each makes it fail",
    )

    @model_validator(mode="after")
    def _honest(self) -> Card:
        names = [row.quantity for row in self.expected]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"expected names {twice[0]!r} twice; each quantity stands once")
        if self.unpublished is None and not any(row.origin == "published" for row in self.expected):
            raise ValueError("no expected number is published; say in `unpublished` why none fits")
        return self


@dataclass(frozen=True)
class Row:
    """One quantity: what was expected and what was got (None: the measuring function did not return it)."""

    quantity: str
    origin: str
    expected: str
    got: float | None
    holds: bool


@dataclass(frozen=True)
class Reproduction:
    """What a card came to."""

    card: Card
    rows: tuple[Row, ...]
    seconds: float

    @property
    def holds(self) -> bool:
        """Whether every number is as expected."""
        return all(row.holds for row in self.rows)


def card_file(module: str, technique: str) -> Path:
    """Where the card of a technique lies, given its light module; the file may not be there."""
    package = module.partition(":")[0].rpartition(".")[0] or module
    return Path(str(resources.files(package))) / f"{technique.replace('-', '_')}.card.yaml"


def read_card(module: str, technique: str) -> Card:
    """The card of a technique; raises `ConfigError` that names the file, the value and the rule."""
    path = card_file(module, technique)
    try:
        values = yaml.safe_load(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"'{technique}' has no reference card: write {path.name} beside its module") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path.name} is no YAML: {error}") from error
    card: Card = validated(Card, values, path.name)
    if card.technique != technique:
        raise ConfigError(f"{path.name} is about '{card.technique}'; it must be about '{technique}'")
    return card


def function(card: Card) -> Callable[[], Mapping[str, float]]:
    """The function that measures a card's numbers."""
    module, _, name = card.measure.partition(":")
    found = getattr(importlib.import_module(module), name, None)
    if not callable(found):
        raise ConfigError(f"card of '{card.technique}': measure is {card.measure!r}; {module} has no function {name}")
    measure: Callable[[], Mapping[str, float]] = found
    return measure


def reproduce(card: Card) -> Reproduction:
    """Measure a card's numbers, on one thread, and compare them. Raises what the measuring function raises.

    One thread: sums do not depend on the number of cores, and small tensors do not wait for busy ones.
    """
    import torch

    measure, threads = function(card), torch.get_num_threads()
    torch.set_num_threads(1)
    begun = time.perf_counter()
    try:
        measured = measure()
    finally:
        torch.set_num_threads(threads)
    seconds = time.perf_counter() - begun
    stray = sorted(set(measured) - {row.quantity for row in card.expected})
    if stray:
        raise ConfigError(f"card of '{card.technique}': {card.measure} returns {stray[0]!r}, which no expected number names")
    return Reproduction(card, tuple(_row(row, measured) for row in card.expected), seconds)


def _row(expected: Expected, measured: Mapping[str, float]) -> Row:
    got = measured.get(expected.quantity)
    value = None if got is None else float(got)
    return Row(expected.quantity, expected.origin, str(expected), value, value is not None and expected.holds(value))


class _Source(importlib.machinery.SourceFileLoader):
    """Loads a module from a source that is not its file's, past any compiled file."""

    def __init__(self, name: str, path: str, source: str) -> None:
        super().__init__(name, path)
        self.source = source

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self.source, self.path, "exec", dont_inherit=True)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the one module of a loader, ahead of all others."""

    def __init__(self, loader: _Source) -> None:
        self.loader = loader

    def find_spec(self, fullname: str, path: object, target: ModuleType | None = None) -> importlib.machinery.ModuleSpec | None:
        del path, target
        if fullname != self.loader.name:
            return None
        return importlib.util.spec_from_file_location(fullname, self.loader.path, loader=self.loader)


def changed_source(technique: str, core: CoreLine) -> tuple[str, str]:
    """The path of a core line's module, and its source with that line replaced. Raises `ConfigError`."""
    try:
        spec = importlib.util.find_spec(core.module)
    except ModuleNotFoundError:
        spec = None
    if spec is None or spec.origin is None:
        raise ConfigError(f"card of '{technique}': core.module is {core.module!r}, which is no module")
    lines = Path(spec.origin).read_text().splitlines()
    at = [k for k, line in enumerate(lines) if line.strip() == core.line.strip()]
    if len(at) != 1:
        raise ConfigError(
            f"card of '{technique}': core.line {core.line!r} stands {len(at)} times in {core.module}; it must once"
        )
    indent = lines[at[0]][: len(lines[at[0]]) - len(lines[at[0]].lstrip())]
    lines[at[0]] = indent + core.instead
    return spec.origin, "\n".join(lines) + "\n"


@contextlib.contextmanager
def without_core(card: Card, core: CoreLine) -> Iterator[None]:
    """Within it, the technique's modules are imported anew, and the core line is replaced; afterwards all is as before."""
    path, source = changed_source(card.technique, core)
    packages = {card.measure.partition(":")[0].partition(".")[0], core.module.partition(".")[0]} - {"sparring"}

    def ours(name: str) -> bool:
        return name == core.module or name.partition(".")[0] in packages

    held = {name: module for name, module in sys.modules.items() if ours(name)}
    parent, _, leaf = core.module.rpartition(".")
    owner = sys.modules.get(parent)
    before = vars(owner).get(leaf) if owner is not None else None
    finder = _Finder(_Source(core.module, path, source))
    for name in held:
        del sys.modules[name]
    registry.load.cache_clear()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if ours(name)]:
            del sys.modules[name]
        sys.modules.update(held)
        registry.load.cache_clear()
        if owner is not None and before is not None:
            setattr(owner, leaf, before)
