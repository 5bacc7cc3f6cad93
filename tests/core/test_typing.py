"""The contract is typed: two checkers accept a correct implementation of each role, and refuse the six usual mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GOOD, BAD = (ROOT / "tests" / "typing" / name for name in ("good.py", "bad.py"))
Errors = dict[str, set[int]]


def _mypy() -> Errors:
    """The lines of each file that `mypy --strict` refuses."""
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--output", "json", str(GOOD), str(BAD)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return _by_file((Path(e["file"]).name, e["line"]) for e in found if e["severity"] == "error")


def _pyright() -> Errors:
    """The lines of each file that pyright refuses."""
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    if subprocess.run([*command[:3], "--version"], capture_output=True, check=False).returncode != 0:
        pytest.skip("pyright cannot start: it needs Node.js, which is not on this machine")
    done = subprocess.run([*command, str(GOOD), str(BAD)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads(done.stdout)["generalDiagnostics"]
    return _by_file((Path(e["file"]).name, e["range"]["start"]["line"] + 1) for e in found if e["severity"] == "error")


def _by_file(found: Iterable[tuple[str, int]]) -> Errors:
    lines: Errors = {}
    for name, line in found:
        lines.setdefault(name, set()).add(line)
    return lines


@pytest.mark.slow
@pytest.mark.parametrize("checker", [_mypy, _pyright], ids=["mypy", "pyright"])
def test_good_is_accepted_and_each_mistake_is_refused_where_it_stands(checker: Callable[[], Errors]) -> None:
    expected = {i for i, line in enumerate(BAD.read_text().splitlines(), 1) if "# E: " in line}
    found = checker()
    assert found.get("good.py", set()) == set()
    assert found.get("bad.py", set()) == expected


def test_bad_pins_all_six_mistakes() -> None:
    pinned = {line.split("# E: ")[1] for line in BAD.read_text().splitlines() if "# E: " in line}
    assert pinned == {
        "wrong payload",
        "wrong return",
        "dropped argument",
        "misspelt hook",
        "illegal site",
        "config and factory",
    }
