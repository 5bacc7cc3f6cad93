"""Bad input: a sentence that names the value, the rule and the fix, exit status 2, and nothing written."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

GOOD = """
seed: 2
dataset: {name: digits}
model: {name: mlp, hidden: []}
federation: {clients: 4, rounds: 2, batch_size: 32, optimiser: {lr: 0.3}}
"""


def _sparring(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "sparring", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "good.yaml"
    path.write_text(GOOD)
    return path


BAD = {
    "unknown plugin": (["defences=[nomr-clip]"], "did you mean 'norm-clip'"),
    "misspelt option": (["defences=[{norm-clip: {bond: 1}}]"], "did you mean 'bound'"),
    "misspelt section": (["federaton={}"], "did you mean 'federation'"),
    "out of bounds": (["federation.optimiser.lr=-1"], "federation.optimiser.lr is -1: input should be greater than 0"),
    "plugin option out of bounds": (["defences=[{norm-clip: {bound: 0}}]"], "defences.norm-clip.bound is 0"),
    "does not type-check": (["defences=[gauss-noise, norm-clip]"], "this order type-checks"),
    "two rules": (["defences=[mean, median]"], "a run has one"),
    "no data there": (["dataset={name: mnist, root: /nowhere/at/all}"], "/nowhere/at/all"),
    "model does not fit": (["model={name: lenet-zhu}", "dataset={name: breast-cancer}"], "lenet-zhu"),
    "rule and cohort": (["defences=[{krum: {f: 3}}]"], "2f + 2 < n"),
    "unreachable server": (["tracking.uri=http://127.0.0.1:9"], "127.0.0.1:9"),
    "more clients than examples": (["federation.clients=5000"], "use fewer clients"),
    "unknown engine": (["engine=warp"], "no engine 'warp'"),
    "no such cell option": (["cells=[{name: a, sed: 1}]"], "did you mean 'seed'"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_a_sentence_status_2_and_nothing_written(case: str, file: Path, tmp_path: Path) -> None:
    overrides, said = BAD[case]
    options = [part for override in overrides for part in ("--set", override)]
    done = _sparring("run", str(file), "--into", str(tmp_path / "out"), *options)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "cells").exists()
    assert not (tmp_path / "out" / "table.md").exists()


def test_a_file_that_is_not_there_and_one_that_is_no_yaml(tmp_path: Path) -> None:
    assert _sparring("check", str(tmp_path / "none.yaml")).returncode == 2
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1")
    done = _sparring("check", str(broken))
    assert done.returncode == 2
    assert "is no YAML" in done.stderr


def test_nan_names_client_and_layer_and_is_recorded(file: Path, tmp_path: Path) -> None:
    explode = ("--set", "federation.optimiser={lr: 1000, weight_decay: 10}", "--set", "federation.rounds=30")
    done = _sparring("run", str(file), "--into", str(tmp_path / "out"), *explode)
    assert done.returncode == 2
    outcome = json.loads((tmp_path / "out" / "cells" / "good" / "outcome.json").read_text())
    assert "NaN or Inf in the update of client" in outcome["error"]
    assert "local training" in outcome["error"]


def test_a_foreign_and_a_corrupt_checkpoint_are_refused(file: Path, tmp_path: Path) -> None:
    out = ("--into", str(tmp_path / "out"))
    assert _sparring("run", str(file), *out).returncode == 0
    foreign = _sparring("run", str(file), *out, "--resume", "--set", "seed=3")
    assert foreign.returncode == 2
    assert "another experiment" in foreign.stderr
    (saved,) = (tmp_path / "out" / "cells" / "good" / "checkpoint").glob("*.safetensors")
    saved.write_bytes(saved.read_bytes()[:-1] + b"?")
    corrupt = _sparring("run", str(file), *out, "--resume")
    assert corrupt.returncode == 2
    assert "corrupt" in corrupt.stderr


def test_a_full_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import errno

    from sparring.errors import CheckpointError
    from sparring.files import write_bytes

    def full(self: Path, target: Path) -> Path:
        raise OSError(errno.ENOSPC, "No space left on device")

    write_bytes(tmp_path / "kept", b"old")
    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(CheckpointError, match="No space left on device"):
        write_bytes(tmp_path / "kept", b"new")
    assert (tmp_path / "kept").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_overrides_and_the_schema(file: Path) -> None:
    done = _sparring("check", str(file), "--set", "defences=[norm-clip]", "--set", "defences.0.norm-clip.bound=2.5")
    assert done.returncode == 0, done.stderr
    assert "bound=2.5" in done.stdout
    schema = json.loads(_sparring("schema").stdout)
    assert set(schema["required"]) == {"dataset", "model"}
    assert schema["properties"]["seed"]["minimum"] == 0
