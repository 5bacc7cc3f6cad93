"""The code blocks of a page, in order: what each is, and the file that it belongs into."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"^(?P<indent> *)```(?P<language>[\w+-]*)(?P<info>[^\n`]*)\n(?P<text>.*?)^(?P=indent)```$", re.DOTALL | re.MULTILINE
)
NOTE = re.compile(r"<!-- (\w+)(?: ([^\n]*?))? -->\s*$")
NAMED = re.compile(r"`([\w./-]+\.\w+)`")
WRITTEN = ("toml", "markdown", "json", "csv")
"""Languages whose blocks are files, and nothing else."""
LANGUAGES = ("python", "sh", "yaml", "text", "diff", *WRITTEN)


@dataclass(frozen=True)
class Block:
    """A code block.

    ``file``: where its text belongs, given as ``title="path"``, or by the paragraph before, which then opens with the path.
    ``note``: a comment directly before the block, as name and value: ``exits N`` (a shell block ends with that status),
    ``serves PORT`` (it runs until the page ends), ``refused`` (an experiment that does not type-check), ``excerpt`` (lines that
    stand in the file), ``drawing`` (a text that nothing printed).
    """

    page: Path
    line: int
    language: str
    text: str
    file: str | None
    note: tuple[str, str] | None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line} ({self.language})"


def blocks(page: Path) -> list[Block]:
    """The code blocks of a page."""
    return list(_blocks(page, page.read_text()))


def _blocks(page: Path, text: str) -> Iterator[Block]:
    end = 0
    for found in FENCE.finditer(text):
        before = text[end : found.start()]
        end = found.end()
        note = NOTE.search(before)
        lead = before[: note.start() if note else None].strip().rpartition("\n\n")[2]
        title = re.search(r'title="([^"]+)"', found["info"])
        opens = NAMED.match(lead)
        yield Block(
            page,
            text.count("\n", 0, found.start()) + 1,
            found["language"],
            textwrap.dedent(found["text"]),
            title[1] if title else opens[1] if opens else None,
            (note[1], note[2] or "") if note else None,
        )


def fault(block: Block, before: Block | None) -> str | None:
    """Why a block would be neither executed nor compared, or None."""
    if block.language not in LANGUAGES:
        return f"'{block.language}' is a language that no test executes; one of {', '.join(LANGUAGES)}"
    if block.language in (*WRITTEN, "diff") and block.file is None:
        return "the text names no file that it belongs into"
    if block.language == "text" and block.note != ("drawing", "") and (before is None or not printing(before)):
        return "there is no block before it that prints"
    return None


def printing(block: Block) -> bool:
    """Whether a block, when it is executed, prints."""
    return block.language in ("sh", "yaml") or (block.language == "python" and block.file is None)
