"""Mutants of the checks of reference cards: distributions on disk, each with a technique that doubles a number."""

from __future__ import annotations

import atexit
import itertools
import shutil
import sys
import tempfile
from pathlib import Path

import yaml

from tests.kit.making import Made, defence, idle, mutant, subject

SITE = Path(tempfile.mkdtemp(prefix="sparring-"))
atexit.register(shutil.rmtree, SITE, ignore_errors=True)
sys.path.append(str(SITE))
_numbers = itertools.count()
TECHNIQUE = "def double(x):\n    y = x\n    y = 2 * y\n    return y\n"
MEASURE = "from {package}.technique import double\n\n\ndef measure():\n    return {{'twice three': double(3)}}\n"


def distribution(
    *, value: float = 6, line: str = "y = 2 * y", measure: str = MEASURE, card: bool = True, function: str = "measure"
) -> str:
    """The light module of a new distribution whose technique is ``layer``, with these things in its card."""
    package = f"kit_card_{next(_numbers)}"
    folder = SITE / package
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "plugin.py").touch()
    (folder / "technique.py").write_text(TECHNIQUE)
    (folder / "cards.py").write_text(measure.format(package=package))
    values = {
        "technique": "layer",
        "paper": {"authors": "Anonymous", "title": "On doubling", "venue": "nowhere", "year": 2020},
        "setting": "the number three, doubled once",
        "unpublished": "doubling is older than publishing",
        "measure": f"{package}.cards:{function}",
        "seconds": 1,
        "expected": [{"quantity": "twice three", "origin": "closed-form", "value": value, "tolerance": 0}],
        "core": [{"module": f"{package}.technique", "line": line}],
    }
    if card:
        (folder / "layer.card.yaml").write_text(yaml.safe_dump(values))
    return f"{package}.plugin"


@mutant("card-given")
def _(broken: bool) -> Made:
    return subject(defence(idle), distribution(card=not broken))


@mutant("card-given", "measure")
def _(broken: bool) -> Made:
    return subject(defence(idle), distribution(function="weigh" if broken else "measure"))


@mutant("card-given", "core line")
def _(broken: bool) -> Made:
    return subject(defence(idle), distribution(line="y = 3 * y" if broken else "y = 2 * y"))


@mutant("card-reproduces")
def _(broken: bool) -> Made:
    return subject(defence(idle), distribution(value=7 if broken else 6))


@mutant("card-falls")
def _(broken: bool) -> Made:
    constant = MEASURE.replace("double(3)", "6")
    return subject(defence(idle), distribution(measure=constant if broken else MEASURE))
