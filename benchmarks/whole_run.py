"""The share of a whole ``sparring run`` of 20 rounds that is spent outside local training and aggregation.

Run: python benchmarks/whole_run.py. The process is timed from outside: imports, checks, data, tracking and all.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

EXPERIMENT = """
seed: 0
dataset: {name: mnist-5k}
model: {name: convnet}
federation: {clients: 20, rounds: 20, local_epochs: 10, batch_size: 32, optimiser: {lr: 0.1}}
"""


def main() -> None:
    """One timed run."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "whole.yaml")
        file.write_text(EXPERIMENT)
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sparring", "run", str(file), "--into", folder], check=True, capture_output=True)
        wall = time.perf_counter() - begun
        outcome = json.loads(Path(folder, "cells", "whole", "outcome.json").read_text())
    work = sum(outcome["costs"][name]["seconds"] for name in ("local training", "aggregation") if name in outcome["costs"])
    print(f"whole process {wall:.1f} s, its cell {outcome['seconds']:.1f} s, local training and aggregation {work:.1f} s")
    print(f"outside: {1 - work / wall:.1%} of the process, {1 - work / outcome['seconds']:.1%} of the cell")


if __name__ == "__main__":
    main()
