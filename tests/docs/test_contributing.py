"""CONTRIBUTING.md, followed to the letter: its files and its commands make a plugin that passes the kit."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks
from tests.docs.runner import execute

PAGE = ROOT / "CONTRIBUTING.md"


def test_the_page_makes_a_whole_distribution() -> None:
    made = {Path(block.file).name for block in blocks(PAGE) if block.file and "value_clip/" in block.file}
    assert {"pyproject.toml", "README.md", "__init__.py", "plugin.py", "value_clip.py", "test_value_clip.py"} <= made
    assert not (ROOT / "plugins" / "defences" / "value_clip").exists()


@pytest.mark.packaging
def test_the_page_works_as_written(tmp_path: Path) -> None:
    outputs = execute(PAGE, tmp_path)
    printed = "".join(text for block, text in outputs if block.language == "sh")
    assert "value-clip (defence, sparring-value-clip" in printed
    assert re.search(r"\d\d+ passed", printed), printed
    (verdict,) = (text for block, text in outputs if block.language == "yaml" and block.file is None)
    assert "type-checks: federated averaging >> value-clip >> mean (default)" in verdict
    assert "+Clipped(linf, client, all, bound=0.05)" in verdict
