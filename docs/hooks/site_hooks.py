"""Events of the site's build: pages that are made from the code, and links that lead out of the folder of pages."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reference import contract, pages, techniques

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
FROM_ROOT = {"README.md": "overview.md", "CONTRIBUTING.md": "contributing.md"}
"""Files of the checkout that are pages of the site, too."""

FENCE = re.compile(r"(^```.*?^```$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
ROW = re.compile(r"^\| `([\w-]+)` \| (\w+) \|", re.MULTILINE)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that lie elsewhere, and those that the code writes."""
    from mkdocs.structure.files import File

    made = {page: (ROOT / file).read_text() for file, page in FROM_ROOT.items()}
    made |= {f"reference/{name}.md": text for name, text in {**contract.made(), **techniques.made(), **pages.made()}.items()}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the checkout has them become links of the site; files that are no pages are named, not linked."""
    del config
    path = page.file.src_uri
    source = next((file for file, made in FROM_ROOT.items() if made == path), f"docs/{path}")

    def relinked(match: re.Match[str]) -> str:
        return _link(match, source, path, files)

    parts = FENCE.split(markdown)
    if path == FROM_ROOT["README.md"]:
        parts[::2] = [ROW.sub(r"| [`\1`](docs/reference/\2s.md#\1) | \2 |", part) for part in parts[::2]]
    return "".join(part if k % 2 else LINK.sub(relinked, part) for k, part in enumerate(parts))


def _link(match: re.Match[str], source: str, path: str, files: Any) -> str:
    picture, text, target, anchor = match[1], match[2], match[3], match[4] or ""
    if "://" in target:
        return match[0]
    held = posixpath.normpath(posixpath.join(posixpath.dirname(source), target))
    page = FROM_ROOT.get(held, held.removeprefix("docs/"))
    if files.get_file_from_path(page) is not None:
        return f"{picture}[{text}]({posixpath.relpath(page, posixpath.dirname(path) or '.')}{anchor})"
    if (ROOT / held).exists() and not held.startswith("docs/"):
        return text if text == held else f"{text} (`{held}`)"
    return match[0]
