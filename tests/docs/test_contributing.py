"""CONTRIBUTING.md, followed to the letter: its files and its commands make a plugin that passes the kit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.runner import execute

PAGE = ROOT / "CONTRIBUTING.md"


def test_the_page_starts_from_the_scaffold_and_shows_what_a_plugin_is_made_of() -> None:
    shown = {Path(block.file).name for block in blocks(PAGE) if block.file}
    assert shown == {"pyproject.toml", "plugin.py", "value_clip.py", "test_value_clip.py"}
    assert blocks(PAGE)[0].text.startswith("sparring new defence value-clip\n")


@pytest.mark.packaging
def test_the_page_works_as_written(tmp_path: Path) -> None:
    outputs = execute(PAGE, tmp_path)
    printed = "".join(text for block, text in outputs if block.language == "sh")
    assert re.search(r"\d\d+ passed", printed), printed
    (verdict,) = (text for block, text in outputs if block.language == "yaml" and block.file is None)
    assert "type-checks: federated averaging >> value-clip >> mean (default)" in verdict
    assert "+Clipped(linf, client, all, bound=0.05)" in verdict
