"""Checkpoints: a run killed at any moment resumes to the same bits; what is corrupt or foreign is refused; no pickle."""

from __future__ import annotations

import ast
import errno
import io
import json
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import pytest
import torch
from torch import Tensor

import sparring
from sparring import checkpoint
from sparring.context import Context, Round, Setup
from sparring.errors import CheckpointError
from sparring.files import write_bytes
from sparring.hookspecs import hookimpl
from sparring.roles import Data, Dataset, Defence, PassiveAttack, Stateful
from sparring.run import Outcome, identity_of
from sparring.signals import Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import AttackSpec, Empty, Layer, Reader
from sparring.taps import Tap
from sparring.views import Finding, Reconstruction, UpdateView
from tests.core.federation import Blobs, built, conv, experiment, linear, plugin, ran

ROUNDS = 6


@final
class Wandering(Defence[Updates], Stateful):
    """A bound that follows the norms it has seen, and noise."""

    def __init__(self) -> None:
        self.bound = 1.0
        self.last: Tensor | None = None

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        assert isinstance(ctx, Round)
        noise = torch.stack([torch.randn(signal.params.shape[1], generator=ctx.generator(i)) for i in signal.ids])
        self.bound = 0.9 * self.bound + 0.1 * float(signal.params.norm(dim=1).median())
        self.last = signal.rows[0]
        return signal.with_params((signal.params + 0.001 * noise) * self.bound)

    def state(self) -> dict[str, Any]:
        return {"bound": self.bound, "last": self.last, "views": None if self.last is None else [self.last[1:], self.last]}

    def restore(self, state: Any) -> None:
        self.bound, self.last = state["bound"], state["last"]


@final
class Averaging(PassiveAttack[UpdateView]):
    """A reconstruction that depends on every bit it tapped."""

    @hookimpl
    def attack_observe(self, view: UpdateView, ctx: Setup) -> Finding | None:
        keys = [(c.round, c.client) for c in view]
        rows = [c.row + c.parameters for c in view]
        inputs = {k: r[:36].view(1, 1, 6, 6).expand(c.examples, 1, 6, 6) for k, r, c in zip(keys, rows, view, strict=True)}
        labels = {k: torch.zeros(c.examples, dtype=torch.long) for k, c in zip(keys, view, strict=True)}
        return Reconstruction(0.0, inputs, labels, dict.fromkeys(keys, 0.0), {})


WANDERING = plugin("wandering", Layer[Empty](site=Site.UPDATE, build=lambda _: Wandering()))
AVERAGING = AttackSpec(
    api=1,
    name="averaging",
    config=Empty,
    summary="averages",
    game="reconstruction",
    reader=Reader(tap=lambda _: Tap(("update",)), build=lambda _: Averaging(), signature=Signature(keeps=ALL)),
)


FEDERATION = {"clients": 5, "cohort": {"rate": 0.6}, "rounds": ROUNDS, "dropout": 0.1, "server": {"momentum": 0.5}}


def given(engine: str = "sequential", seed: int = 3) -> Any:
    stack: dict[str, Any] = {"defences": ["wandering"], "attacks": ["averaging"], "performance": {"workers": 2}}
    return experiment(conv, engine=engine, seed=seed, federation=FEDERATION, **stack)


@pytest.fixture(autouse=True)
def _known(offer: Callable[..., None]) -> None:
    offer(WANDERING, AVERAGING)


@pytest.fixture
def whole(tmp_path: Path) -> tuple[Outcome, dict[str, Any]]:
    return ran(given(), tmp_path / "whole")


def assert_same(a: tuple[Outcome, dict[str, Any]], b: tuple[Outcome, dict[str, Any]]) -> None:
    """Metrics and parameters are equal to the bit; only times differ."""
    for field in ("accuracy", "history", "epsilon", "up", "down", "notes", "sights", "claims"):
        assert getattr(a[0], field) == getattr(b[0], field), field
    for label, score in a[0].scores.items():
        assert score.measures == b[0].scores[label].measures
    for name, cost in a[0].costs.items():
        other = b[0].costs[name]
        assert (cost.change, cost.rounds, cost.acted) == (other.change, other.rounds, other.acted)
    assert torch.equal(a[1]["row"], b[1]["row"])
    assert torch.equal(a[1]["extras"]["velocity"], b[1]["extras"]["velocity"])
    assert a[1]["plugins"]["wandering"]["bound"] == b[1]["plugins"]["wandering"]["bound"]
    assert a[1]["counts"] == b[1]["counts"]


def child(target: Callable[[], Any]) -> Any:
    """A forked process that runs ``target``."""
    process = multiprocessing.get_context("fork").Process(target=target)
    process.start()
    return process


def suicide() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class Torn(io.FileIO):
    """A file that dies with its process half through a write."""

    def write(self, data: Any) -> int:
        super().write(memoryview(data)[: len(data) // 2])
        suicide()
        return 0


def dying(monkeypatch: pytest.MonkeyPatch, how: str, at: int) -> None:
    """Make this process die ``how`` at the ``at``-th file that it writes whole."""
    seen = [0]
    plain_open, plain_replace = Path.open, Path.replace

    def now(path: Path) -> bool:
        if path.suffix != ".part":
            return False
        seen[0] += 1
        return seen[0] == at

    def torn(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        if mode == "wb" and now(path):
            return Torn(path, "w")
        return plain_open(path, mode, *arguments, **options)

    def replaced(path: Path, target: Any) -> Path:
        last = now(path)
        if last and how == "before the rename":
            suicide()
        made = plain_replace(path, target)
        if last and how == "after the rename":
            suicide()
        return made

    if how == "half through a write":
        monkeypatch.setattr(Path, "open", torn)
    else:
        monkeypatch.setattr(Path, "replace", replaced)


@pytest.mark.parametrize("at", [1, 2, 3, 4, 5, 8, 12])
@pytest.mark.parametrize("how", ["half through a write", "before the rename", "after the rename"])
def test_a_run_that_is_killed_while_writing_resumes_to_the_same_bits(
    tmp_path: Path, whole: tuple[Outcome, dict[str, Any]], how: str, at: int
) -> None:
    def target() -> None:
        with pytest.MonkeyPatch.context() as patch:
            dying(patch, how, at)
            ran(given(), tmp_path / "cut")

    process = child(target)
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert_same(ran(given(), tmp_path / "cut", resume=True), whole)


def killed_at(folder: Path, seconds: float, engine: str) -> bool:
    """Whether a run was killed that many seconds after its first checkpoint, or had ended before."""
    process = child(lambda: ran(given(engine), folder, resume=True))
    while process.is_alive() and not (folder / "checkpoint" / "checkpoint.json").exists():
        time.sleep(0.001)
    time.sleep(seconds)
    process.kill()
    process.join()
    return bool(process.exitcode == -signal.SIGKILL)


@pytest.mark.parametrize("engine", ["sequential", "workers"])
def test_a_run_that_is_killed_again_and_again_resumes_to_the_same_bits(tmp_path: Path, engine: str) -> None:
    expected = ran(given(engine), tmp_path / "whole")
    chance = random.Random(7)
    kills = 0
    for k in range(5):
        kills += sum(killed_at(tmp_path / f"cut-{k}", chance.uniform(0, 0.03), engine) for _ in range(4))
        assert_same(ran(given(engine), tmp_path / f"cut-{k}", resume=True), expected)
    assert kills


def test_a_run_that_is_over_resumes_to_its_own_outcome(tmp_path: Path, whole: tuple[Outcome, dict[str, Any]]) -> None:
    assert_same(ran(given(), tmp_path / "whole", resume=True), whole)


def test_without_resume_a_run_starts_afresh(tmp_path: Path, whole: tuple[Outcome, dict[str, Any]]) -> None:
    assert_same(ran(given(), tmp_path / "whole"), whole)
    assert ran(given(seed=4), tmp_path / "whole")[0].history != whole[0].history


def test_where_there_is_no_checkpoint_resuming_starts(tmp_path: Path, whole: tuple[Outcome, dict[str, Any]]) -> None:
    assert_same(ran(given(), tmp_path / "fresh", resume=True), whole)


# What is refused.


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A folder with the checkpoint of some state."""
    folder = tmp_path / "checkpoint"
    checkpoint.save(folder, "me", 3, {"row": torch.arange(50.0), "history": [[0, 0.25, 1.5]], "counts": {"up": 7}})
    return folder


def tensors_of(folder: Path) -> Path:
    (found,) = folder.glob("*.safetensors")
    return found


def _flipped(folder: Path) -> Path:
    path = tensors_of(folder)
    data = bytearray(path.read_bytes())
    data[-9] ^= 1
    path.write_bytes(data)
    return path


def _cut(folder: Path) -> Path:
    path = tensors_of(folder)
    path.write_bytes(path.read_bytes()[:-20])
    return path


def _gone(folder: Path) -> Path:
    tensors_of(folder).unlink()
    return folder / "checkpoint.json"


def _head(text: Callable[[str], str]) -> Callable[[Path], Path]:
    def spoil(folder: Path) -> Path:
        path = folder / "checkpoint.json"
        path.write_text(text(path.read_text()))
        return path

    return spoil


def _without(key: str) -> Callable[[str], str]:
    return lambda text: json.dumps({k: v for k, v in json.loads(text).items() if k != key})


SPOILT: dict[str, Callable[[Path], Path]] = {
    "a flipped bit in a tensor": _flipped,
    "a truncated tensor file": _cut,
    "no tensor file": _gone,
    "truncated JSON": _head(lambda text: text[: len(text) // 2]),
    "empty JSON": _head(lambda text: ""),
    "another JSON": _head(lambda text: "[1, 2]"),
    "no JSON": _head(lambda text: "\x00\xff\x00"),
    "a changed number in the state": _head(lambda text: text.replace("0.25", "0.75")),
    "a changed round": _head(lambda text: text.replace('"round": 3', '"round": 2')),
    **{f"no {key}": _head(_without(key)) for key in ("format", "identity", "round", "tensors", "sha256", "state")},
}


@pytest.mark.parametrize("how", SPOILT)
def test_a_corrupt_checkpoint_is_refused_with_its_file_and_the_fix(saved: Path, how: str) -> None:
    path = SPOILT[how](saved)
    with pytest.raises(CheckpointError) as refused:
        checkpoint.load(saved, "me")
    message = str(refused.value)
    assert str(path) in message
    assert "corrupt" in message
    assert f"delete {saved} to start afresh, or run without --resume" in message


def test_a_checkpoint_of_another_experiment_is_refused(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"checkpoint\.json belongs to another experiment: .*delete .* --resume"):
        checkpoint.load(saved, "you")


def test_a_checkpoint_of_another_format_is_refused(saved: Path) -> None:
    path = saved / "checkpoint.json"
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(CheckpointError, match="checkpoint"):
        checkpoint.load(saved, "me")


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 4},
        {"federation": {"clients": 5, "cohort": {"rate": 0.6}, "rounds": ROUNDS + 1}},
        {"defences": []},
        {"attacks": []},
        {"threat_model": {"knows": ["labels"]}},
        {"partition": {"kind": "dirichlet"}},
    ],
)
def test_what_the_numbers_depend_on_makes_another_experiment(tmp_path: Path, change: dict[str, Any]) -> None:
    ran(given(), tmp_path)
    sections = {"seed": 3, "defences": ["wandering"], "attacks": ["averaging"], "federation": FEDERATION, **change}
    with pytest.raises(CheckpointError, match="belongs to another experiment"):
        ran(experiment(conv, **sections), tmp_path, resume=True)


def test_how_fast_a_run_is_makes_no_other_experiment(tmp_path: Path) -> None:
    identity = identity_of(built(given()))
    assert identity_of(built(given("workers"))) == identity
    assert identity_of(built(given(seed=4))) != identity


def test_other_data_and_another_model_make_another_experiment(tmp_path: Path) -> None:
    """Both are given as objects, of which the file says nothing."""

    @final
    class Inverted(Dataset):
        def load(self, ctx: Setup) -> Data:
            data = Blobs().load(ctx)
            return replace(data, train=replace(data.train, x=1 - data.train.x))

    Inverted.__name__, deeper = "Blobs", lambda: conv()  # noqa: PLW0108
    deeper.__name__ = "linear"
    ran(experiment(linear), tmp_path)
    for other in (experiment(linear, Inverted()), experiment(deeper), experiment(linear, Blobs(97))):
        assert built(other).resolved.identity == built(experiment(linear)).resolved.identity
        with pytest.raises(CheckpointError, match="belongs to another experiment"):
            ran(other, tmp_path, resume=True)


# What is kept.


def test_what_is_saved_is_loaded_to_the_bit(tmp_path: Path) -> None:
    base = torch.randn(4, 6)
    state = {
        "float": torch.randn(3, dtype=torch.float64),
        "half": torch.randn(3).bfloat16(),
        "ints": torch.tensor([2**62, -1]),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(0.1),
        "empty": torch.zeros(0, 3),
        "strided": base.T,
        "same storage": {"whole": base, "part": base[1:], "again": base},
        "nested": {"1": [1, 2.5, None, True, "text", {"x": torch.ones(2)}], "2": []},
        "numbers": [0.1, 1e-300, float("inf"), -0.0],
    }
    checkpoint.save(tmp_path, "me", 7, state)
    round_, found = checkpoint.load(tmp_path, "me") or (0, {})
    assert round_ == 7

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, Tensor):
            return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
        if isinstance(a, dict):
            return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
        if isinstance(a, list):
            return len(a) == len(b) and all(map(equal, a, b))
        return type(a) is type(b) and repr(a) == repr(b)

    assert equal(state, found)


def test_only_the_last_checkpoint_is_kept(tmp_path: Path) -> None:
    for k in range(4):
        checkpoint.save(tmp_path, "me", k, {"row": torch.full((3,), float(k))})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.json", "round-000003.safetensors"]


def test_state_that_no_json_holds_is_refused_by_its_place(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"state at /plugins/odd/seen is a set; state holds tensors, numbers, strings"):
        checkpoint.save(tmp_path, "me", 1, {"plugins": {"odd": {"seen": {1, 2}}}})


# A full disk.


def test_a_full_disk_is_an_error_that_names_the_file_and_leaves_the_old_one(tmp_path: Path, monkeypatch: Any) -> None:
    path = tmp_path / "outcome.json"
    write_bytes(path, b"old")
    plain_open = Path.open

    class Full(io.FileIO):
        def write(self, data: Any) -> int:
            super().write(memoryview(data)[:1])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(
        Path, "open", lambda path, mode="r", *a, **k: Full(path, "w") if mode == "wb" else plain_open(path, mode, *a, **k)
    )
    with pytest.raises(CheckpointError, match=r"cannot write .*outcome\.json: No space left on device; free space or choose"):
        write_bytes(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["outcome.json"]


def test_a_folder_that_cannot_be_made_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*file/x\.json"):
        write_bytes(tmp_path / "file" / "x.json", b"")


# No pickle.

FORBIDDEN_MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
FORBIDDEN_CALLS = {"torch.load", "torch.save", "numpy.save", "numpy.load", "np.save", "np.load"}
FORBIDDEN_METHODS = {"send", "recv"}
"""Of multiprocessing's connections: both pickle; ``send_bytes`` and ``recv_bytes`` do not."""


def sources() -> list[Path]:
    return sorted(Path(sparring.__file__).parent.rglob("*.py"))


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def pickling(text: str) -> list[str]:
    """Everything in a source that writes or reads pickles."""
    found: list[str] = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if alias.name.split(".")[0] in FORBIDDEN_MODULES]
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            found += [module] if module.split(".")[0] in FORBIDDEN_MODULES else []
            found += [f"{module}.{a.name}" for a in node.names if f"{module}.{a.name}" in FORBIDDEN_CALLS]
            found += [a.name for a in node.names if module == "multiprocessing" and a.name in ("Queue", "Manager", "Pool")]
        elif isinstance(node, ast.Call):
            name = _dotted(node.func)
            if name in FORBIDDEN_CALLS or name.split(".")[0] in FORBIDDEN_MODULES or name.split(".")[-1] in FORBIDDEN_METHODS:
                found.append(name)
    return found


def test_core_imports_and_calls_nothing_that_pickles() -> None:
    assert len(sources()) > 40
    assert {path.name: found for path in sources() if (found := pickling(path.read_text()))} == {}


@pytest.mark.parametrize(
    "text",
    ["import pickle", "from pickle import loads", "import torch\ntorch.load(x)", "from torch import save", "pipe.send(x)",
     "from multiprocessing import Pool", "import joblib as j"],
)  # fmt: skip
def test_the_search_for_pickles_finds_them(text: str) -> None:
    assert pickling(text)


def test_a_run_writes_tensors_and_json_alone(tmp_path: Path, whole: tuple[Outcome, dict[str, Any]]) -> None:
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    for path in files:
        assert not path.read_bytes().startswith((b"\x80", b"PK")), path


def test_a_run_calls_no_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pickle  # noqa: TID251

    def refused(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("a run pickles nothing")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refused)
    monkeypatch.setattr(torch, "save", refused)
    monkeypatch.setattr(torch, "load", refused)
    ran(given(), tmp_path)
