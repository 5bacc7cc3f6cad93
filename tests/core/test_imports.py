"""The import budget: what each command loads, in a fresh process, and how long listing takes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from sparring.registry import entries

HEAVY = ("torch", "torchvision", "mlflow", "pydantic", "sklearn", "scipy", "numpy")
SUCCESS = (0, None)
EXPERIMENT = """
dataset: {name: digits}
model: {name: mlp}
attacks: [{inverting-gradients: {}}]
defences: [{norm-clip: {bound: 1.0}}, {gauss-noise: {noise_multiplier: 1.0}}, mean]
"""


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter holds once it has run ``code``."""
    report = "\nimport json, sys\nprint('\\n' + json.dumps(sorted(sys.modules)))"
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code) + report]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def invoked(*arguments: str) -> set[str]:
    """The modules that the command line loads."""
    return loaded(f"""
        import sys
        from sparring.__main__ import main
        sys.argv = ["sparring", *{list(arguments)!r}]
        try:
            main()
        except SystemExit as ended:
            assert ended.code in {SUCCESS!r}, ended.code
    """)


def plugins(modules: set[str]) -> set[str]:
    return {name for name in modules if name.startswith("sparring_")}


def heavy(modules: set[str], *allowed: str) -> set[str]:
    return {name for name in modules if name.split(".")[0] in set(HEAVY) - set(allowed)}


def needs(*names: str) -> None:
    missing = set(names) - {entry.name for entry in entries()}
    if missing:
        pytest.skip(f"not installed here: {', '.join(sorted(missing))}")


def test_importing_sparring_loads_nothing_heavy() -> None:
    found = loaded("import sparring; assert sparring.__version__")
    assert heavy(found) == set()
    assert "typer" not in found


def test_the_contract_that_light_modules_import_loads_no_torch() -> None:
    light = ("facts", "sites", "signature", "claims", "taps", "specs", "hookspecs", "errors", "registry", "manager", "schema")
    found = loaded("\n".join(f"import sparring.{name}" for name in light))
    assert heavy(found, "pydantic") == set()


@pytest.mark.parametrize("arguments", [("list",), ("list", "defences"), ("list", "--json"), ("--help",)], ids=" ".join)
def test_listing_loads_no_plugin_and_nothing_heavy(arguments: tuple[str, ...]) -> None:
    if "defences" in arguments:
        needs("norm-clip")
    found = invoked(*arguments)
    assert heavy(found) == set()
    assert plugins(found) == set()


def test_verifying_loads_light_modules_alone() -> None:
    assert heavy(invoked("list", "--verify"), "pydantic") == set()


def test_showing_loads_the_named_plugin_alone_and_no_torch() -> None:
    needs("norm-clip")
    found = invoked("show", "norm-clip")
    assert heavy(found, "pydantic") == set()
    assert plugins(found) == {"sparring_dp", "sparring_dp.plugin"}


def test_checking_loads_the_named_plugins_alone_and_no_torch(tmp_path: Path) -> None:
    needs("digits", "mlp", "inverting-gradients", "norm-clip", "gauss-noise", "mean", "prv")
    path = tmp_path / "experiment.yaml"
    path.write_text(EXPERIMENT)
    found = invoked("check", str(path))
    assert heavy(found, "pydantic") == set()
    named = ("sparring_digits", "sparring_zoo", "sparring_inversion", "sparring_dp", "sparring_aggregation")
    assert {module.partition(".")[0] for module in plugins(found)} == set(named)


def test_the_schema_needs_no_plugin_and_no_torch() -> None:
    found = invoked("schema")
    assert heavy(found, "pydantic") == set()
    assert plugins(found) == set()


def test_listing_takes_less_than_four_tenths_of_a_second() -> None:
    times = []
    for _ in range(5):
        begun = time.perf_counter()
        subprocess.run([sys.executable, "-m", "sparring", "list"], capture_output=True, check=True)
        times.append(time.perf_counter() - begun)
    assert min(times) < 0.4, times


@pytest.mark.skipif(importlib.util.find_spec("torchvision") is None, reason="torchvision is not installed")
@pytest.mark.parametrize("first", ["import sparring", "import torch\nimport sparring", "import sparring\nimport torchmetrics"])
def test_torchvision_imports_beside_sparring(first: str) -> None:
    """Its ordinary wheel does not import beside a CPU-only torch otherwise."""
    found = loaded(f"import warnings\nwarnings.simplefilter('default')\n{first}\nfrom torchvision.ops import box_iou")
    assert "torchvision.ops" in found
