"""Every code block of every page is executed, or compared with what a block before it printed."""

from __future__ import annotations

import ast
import itertools
import re
from pathlib import Path

import pytest

from tests.docs.blocks import FENCE, PAGES, ROOT, blocks, fault
from tests.docs.runner import execute, matches

ELSEWHERE = {"README.md": "test_readme.py", "CONTRIBUTING.md": "test_contributing.py"}
"""Pages that tests of their own execute, and ask for more."""
EXECUTED = [page for page in PAGES if page.name not in ELSEWHERE and any(b.language != "text" for b in blocks(page))]


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_no_block_escapes(page: Path) -> None:
    found = blocks(page)
    faults = {
        str(block): why for before, block in itertools.pairwise([None, *found]) if block and (why := fault(block, before))
    }
    assert faults == {}
    assert len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) == 2 * len(found)
    assert not re.search(r"^ *~~~", page.read_text(), re.MULTILINE)
    rest = FENCE.sub("", page.read_text())
    assert not re.search(r"\n\n( {4}|\t)(?![-*\d ])", rest), "an indented code block, which no test would see"


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_blocks_are_python(page: Path) -> None:
    for block in blocks(page):
        if block.language == "python" and block.note != ("excerpt", ""):
            ast.parse(block.text, str(block))


def test_modules_in_drawings_exist() -> None:
    drawn = [block for page in PAGES for block in blocks(page) if block.note == ("drawing", "")]
    assert drawn
    for block in drawn:
        named = set(re.findall(r"\b(\w+\.py)\b", block.text)) - {"plugin.py"}
        assert named
        assert {module for module in named if not (ROOT / "core" / "sparring" / module).exists()} == set()


@pytest.mark.slow
@pytest.mark.parametrize("page", EXECUTED, ids=name)
def test_a_page_works_as_written(page: Path, tmp_path: Path) -> None:
    execute(page, tmp_path)


@pytest.mark.parametrize(
    ("expected", "printed", "same"),
    [
        ("a\nb", "a\nb\n", True),
        ("a\nb", "a\n\nb\n", False),
        ("a\n...\nc", "a\nb\nb\nc", True),
        ("a\n...\nc", "a\nc", True),
        ("a\n...", "b\na", False),
        ("x = ... s", "x = 0.31 s", True),
        ("x = ... s", "x = 0.31\n s", False),
        ("a", "ab", False),
    ],
)
def test_a_cut_stands_for_what_it_replaces(expected: str, printed: str, same: bool) -> None:
    assert matches(expected, printed) is same
