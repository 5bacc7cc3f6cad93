"""A run that is killed with SIGKILL at any moment resumes to the same metrics, bit for bit, and leaves no process behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

EXPERIMENT = """
seed: 4
dataset: {name: digits}
model: {name: convnet, width: 4}
federation: {clients: 6, rounds: 40, batch_size: 16, optimiser: {lr: 0.2, momentum: 0.5}, server: {momentum: 0.3}}
engine: workers
performance: {workers: 2}
"""


def _start(file: Path, folder: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sparring", "run", str(file), "--into", str(folder), *more]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _history(folder: Path) -> list[list[float]]:
    history: list[list[float]] = json.loads((folder / "cells" / "run" / "outcome.json").read_text())["history"]
    return history


def _members(session: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == session and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_killed_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(EXPERIMENT)
    assert _start(file, tmp_path / "whole").wait() == 0
    for round_ in (1, 11, 29):
        folder = tmp_path / f"killed-{round_}"
        process = _start(file, folder)
        head = folder / "cells" / "run" / "checkpoint" / "checkpoint.json"
        while not (head.exists() and json.loads(head.read_text())["round"] >= round_):
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 5
        while _members(process.pid) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not _members(process.pid), "a worker outlived its run"
        assert not (folder / "cells" / "run" / "outcome.json").exists()
        assert _start(file, folder, "--resume").wait() == 0
        assert _history(folder) == _history(tmp_path / "whole")
