"""What is imported when: the budgets that keep `list`, `show` and `check` quick."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import time
from pathlib import Path

import pytest

HEAVY = ("torch", "mlflow", "numpy")
EXPERIMENT = "dataset: {name: digits}\nmodel: {name: mlp}\ndefences: [{norm-clip: {bound: 1.0}}, gauss-noise, mean]\n"


def _loaded(code: str, *names: str) -> set[str]:
    """Those of ``names`` that a fresh interpreter has loaded after ``code``."""
    probe = f"import sys\n{code}\nprint(','.join(n for n in {names!r} if n in sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)
    return set(filter(None, done.stderr.strip().splitlines()[-1:] and done.stderr.strip().splitlines()[-1].split(",")))


def _cli(*arguments: str) -> str:
    return f"from sparring.cli import app\napp({list(arguments)!r}, standalone_mode=False)"


def test_the_package_alone_imports_nothing_heavy() -> None:
    assert not _loaded("import sparring", *HEAVY, "pydantic")


def test_list_imports_no_plugin_and_no_pydantic() -> None:
    assert not _loaded(
        "sys.argv[1:] = ['list']\nfrom sparring.__main__ import main\nmain()", *HEAVY, "pydantic", "sparring_dp", "sparring_zoo"
    )


def test_show_and_check_need_no_torch(tmp_path: Path) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(EXPERIMENT)
    assert not _loaded(_cli("show", "norm-clip"), *HEAVY)
    assert _loaded(_cli("check", str(file)), *HEAVY, "sparring_dp", "sparring_inversion") == {"sparring_dp"}


def test_list_is_quick() -> None:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sparring", "list"], capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.4, f"the best of five took {min(times):.2f} s"


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("module", ["torchvision", "torchmetrics", "torchvision.transforms"])
def test_torchvision_imports_whichever_torch_it_meets(module: str) -> None:
    subprocess.run([sys.executable, "-c", f"import sparring, {module}"], check=True, capture_output=True)
