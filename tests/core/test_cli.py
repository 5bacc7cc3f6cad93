"""The command line: bad input ends with status 2 and a sentence that names value, rule and fix, and writes nothing."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import pytest
import yaml
from pydantic import Field

from sparring import __main__, registry
from sparring.context import Context, Setup
from sparring.errors import DataError
from sparring.facts import Clipped, PerExample
from sparring.hookspecs import hookimpl
from sparring.objects import Factory
from sparring.registry import Entry
from sparring.roles import Data, Dataset, Defence
from sparring.schema import File
from sparring.signals import Updates
from sparring.signature import ALL, Signature
from sparring.sites import Site
from sparring.specs import Config, DatasetSpec, DefenceSpec, Empty, Layer, ModelSpec
from tests.core.federation import Blobs, defence, linear, mlp, rule
from tests.core.test_round import Dense

Run = Callable[..., "Ended"]


class FolderConfig(Config):
    """Where the data lies."""

    path: str | None = Field(None, max_length=100, description="a file")


@final
class Folder(Dataset):
    def __init__(self, path: str | None) -> None:
        self.path = path

    def load(self, ctx: Setup) -> Data:
        if self.path is not None and not Path(self.path).exists():
            raise DataError(f"dataset.path is {self.path!r}, which is not there; name an existing file")
        return Blobs().load(ctx)


class ClipConfig(Config):
    """A bound."""

    bound: float = Field(1.0, gt=0, le=100, description="largest norm")
    kind: str = Field("l2", pattern="^l[12]$", description="which norm")


@final
class Clip(Defence[Updates]):
    def __init__(self, bound: float) -> None:
        self.bound = bound

    @hookimpl
    def defence_transform(self, signal: Updates, ctx: Context) -> Updates:
        norms = signal.params.norm(dim=1, keepdim=True)
        return signal.with_params(signal.params * (self.bound / norms).clamp(max=1))


CLIP = DefenceSpec(
    api=1,
    name="clip",
    config=ClipConfig,
    summary="Clips.",
    layers=(
        Layer(
            site=Site.UPDATE, build=lambda c: Clip(c.bound), signature=Signature(gives=(Clipped("l2", "client"),), keeps=ALL)
        ),
    ),
)
NEEDY = defence("needy", Site.UPDATE, lambda s, c: s, signature=Signature(needs=(Clipped("l2", "client"),), keeps=ALL))
FOLDER = DatasetSpec(
    api=1,
    name="folder",
    config=FolderConfig,
    summary="Blobs.",
    build=lambda c: Folder(c.path),
    licence="none",
    source="synthetic",
    stands_for="images",
)


def model(name: str, factory: Any) -> ModelSpec[Empty]:
    give = Signature(gives=(PerExample(),), keeps=ALL)
    return ModelSpec(api=1, name=name, config=Empty, summary="A model.", build=lambda _: Factory(factory), signature=give)


def misfit() -> Any:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(35, 3))


def too_many() -> Any:
    from torch import nn

    return nn.Sequential(nn.Flatten(), nn.Linear(36, 4))


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _known(offer: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    models = [model("line", linear), model("net", mlp), model("misfit", misfit), model("too-many", too_many)]
    offer(CLIP, NEEDY, FOLDER, rule("dense", Dense), rule("dense-2", Dense), *models)
    monkeypatch.setattr(registry, "catalogue", lambda: {"hammer": "sparring-hammer"})
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def invoke(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """Run the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def _invoke(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["sparring", *arguments])
        capsys.readouterr()
        status: Any = 0
        try:
            __main__.main()
        except SystemExit as ended:
            status = ended.code or 0
        done = capsys.readouterr()
        return Ended(status, done.out, done.err)

    return _invoke


BASE: dict[str, Any] = {
    "dataset": {"name": "folder"},
    "model": {"name": "line"},
    "engine": "sequential",
    "federation": {"clients": 4, "rounds": 2, "batch_size": 8},
}


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    """Write an experiment file: the base with these sections in place of its own."""

    def _file(**sections: Any) -> str:
        path = tmp_path / "lab.yaml"
        path.write_text(yaml.safe_dump({**BASE, **sections}))
        return str(path)

    return _file


def assert_refused(ended: Ended, *parts: str) -> None:
    assert ended.status == 2, ended
    assert ended.err.startswith("error: ")
    assert "Traceback" not in ended.err
    for part in parts:
        assert part in ended.err, ended.err


FEDERATION = BASE["federation"]
BAD: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "an unknown defence": (
        {"defences": ["clpi"]},
        ("no defence or aggregator or host 'clpi' is installed", "did you mean 'clip'?"),
    ),
    "an unknown attack": ({"attacks": ["flipp"]}, ("no attack 'flipp' is installed",)),
    "an unknown data set": ({"dataset": {"name": "folde"}}, ("no dataset 'folde' is installed", "did you mean 'folder'?")),
    "an unknown model": ({"model": {"name": "nett"}}, ("no model 'nett' is installed", "did you mean 'net'?")),
    "an unknown engine": ({"engine": "stakced"}, ("stakced", "did you mean 'stacked'?")),
    "an absent plugin": ({"defences": ["hammer"]}, ("'hammer' is installed: pip install sparring-hammer",)),
    "an absent accountant": (
        {"privacy": {"accountant": "hammer"}},
        ("no accountant 'hammer' is installed: pip install sparring-hammer",),
    ),
    "a misspelt section": ({"federaton": {}}, ("federaton is no option here; did you mean 'federation'?",)),
    "a misspelt option": ({"federation": {"round": 2}}, ("federation.round is no option here; did you mean 'rounds'?",)),
    "a misspelt nested option": (
        {"federation": {"optimiser": {"momentun": 0.9}}},
        ("federation.optimiser.momentun is no option here; did you mean 'momentum'?",),
    ),
    "a misspelt option of an optional section": (
        {"threat_model": {"compromised": {"fractoin": 0.25}}},
        ("threat_model.compromised.fractoin is no option here; did you mean 'fraction'?",),
    ),
    "a misspelt option in a list": (
        {"waive": [{"need": "Clipped(l2, client)", "raeson": "because"}]},
        ("waive.0.raeson is no option here; did you mean 'reason'?", "waive.0.reason is missing"),
    ),
    "a misspelt option of a plugin": (
        {"defences": [{"clip": {"boudn": 1}}]},
        ("defences.clip.boudn is no option here; did you mean 'bound'?",),
    ),
    "a misspelt option of a data set": (
        {"dataset": {"name": "folder", "paht": "x"}},
        ("dataset.paht is no option here; did you mean 'path'?",),
    ),
    "a misspelt option of a cell": (
        {"cells": [{"name": "one", "defnces": []}]},
        ("cells.one.defnces is no option here; did you mean 'defences'?",),
    ),
    "a value out of bounds": (
        {"federation": {"rounds": 0}},
        ("federation.rounds is 0: input should be greater than or equal to 1",),
    ),
    "a plugin's value out of bounds": (
        {"defences": [{"clip": {"bound": -1}}]},
        ("defences.clip.bound is -1: input should be greater than 0",),
    ),
    "a value that is no number": ({"defences": [{"clip": {"bound": float("nan")}}]}, ("defences.clip.bound", "finite number")),
    "a value of another kind": ({"federation": {"rounds": "many"}}, ("federation.rounds is 'many': ", "integer")),
    "a value of none of the kinds": (
        {"federation": {"algorithm": "fedprox"}},
        ("federation.algorithm is 'fedprox': ", "'fedavg'"),
    ),
    "two faults at once": (
        {"seed": -1, "federation": {"dropout": 1.5}},
        ("seed is -1: input should be greater than or equal to 0", "federation.dropout is 1.5: input should be less than 1"),
    ),
    "a cohort larger than the federation": (
        {"federation": {"clients": 4, "cohort": 9}},
        ("cohort is 9; it must be between 1 and clients (4)",),
    ),
    "no model": ({"model": None}, ("model",)),
    "a name without its options": ({"defences": [{"clip": 3}]}, ("defences.0", "{option: value}")),
    "two names in one entry": ({"defences": [{"clip": {}, "needy": {}}]}, ("defences.0", "one name with its options")),
    "both kinds of compromised": (
        {"threat_model": {"compromised": {"fraction": 0.2, "clients": [1]}}},
        ("compromised takes either `fraction` or `clients`",),
    ),
    "two cells of one name": ({"cells": [{"name": "a"}, {"name": "a"}]}, ("cells.1.name is 'a'", "names must differ")),
    "cells that share a folder": ({"cells": [{"name": "a b"}, {"name": "a-b"}]}, ("a-b", "names must differ")),
    "a cell that is no cell": ({"cells": [{"name": "a", "cells": []}]}, ("cells.a.cells is no option here",)),
    "a need that is not met": (
        {"defences": ["needy"]},
        ("does not type-check", "'needy' needs Clipped(l2, client)", "'clip' gives Clipped"),
    ),
    "a stack in the wrong order": (
        {"defences": ["needy", "clip"]},
        ("does not type-check", "this order type-checks: ", "clip >> needy"),
    ),
    "two rules": (
        {"defences": ["dense", "dense-2"]},
        ("two aggregators, 'dense' (sparring-lab 1.0) and 'dense-2'", "drop one"),
    ),
    "a waiver of what no layer needs": (
        {"defences": ["clip"], "waive": [{"need": "Clipped(l1)", "reason": "because"}]},
        ("no layer needs 'Clipped(l1)'",),
    ),
}
AT_RUN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a data set whose path is not there": (
        {"dataset": {"name": "folder", "path": "/nowhere/x.npz"}},
        ("dataset.path is '/nowhere/x.npz', which is not there; name",),
    ),
    "a model that does not take the data": (
        {"model": {"name": "misfit"}},
        ("model 'misfit' does not accept inputs of shape (1, 6, 6)",),
    ),
    "a model with other classes": (
        {"model": {"name": "too-many"}},
        ("model 'too-many' returns (4,) for an input; the data needs (3,)",),
    ),
    "more clients than examples": (
        {"federation": {"clients": 500}},
        ("96 training examples cannot be split over 500 clients; use fewer clients",),
    ),
    "a device that is not there": ({"performance": {"device": "cuda"}}, ("performance.device is cuda", "use auto or cpu")),
    "a good cell before a bad one": (
        {"cells": [{"name": "good"}, {"name": "bad", "model": {"name": "misfit"}}]},
        ("model 'misfit' does not accept",),
    ),
    "an unreachable tracking server": ({"tracking": {"uri": "http://127.0.0.1:9"}}, ("http://127.0.0.1:9", "start the server")),
    "a tracking store that is a folder": ({"tracking": {"uri": "runs"}}, ("tracking uri is 'runs'", "use sqlite:///")),
}


@pytest.mark.parametrize("case", BAD)
def test_check_refuses_a_bad_file(invoke: Run, file: Callable[..., str], case: str) -> None:
    sections, parts = BAD[case]
    ended = invoke("check", file(**sections))
    assert_refused(Ended(ended.status, ended.out, ended.err + ended.out), *parts)


@pytest.mark.parametrize("case", [*BAD, *AT_RUN])
def test_run_refuses_bad_input_before_it_writes_anything(
    invoke: Run, file: Callable[..., str], tmp_path: Path, case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    if case == "a device that is not there" and torch.cuda.is_available():
        pytest.skip("it is there")
    sections, parts = {**BAD, **AT_RUN}[case]
    path = file(**sections)
    trained: list[object] = []
    monkeypatch.setattr("sparring.run.play", lambda *a: trained.append(a))
    begun = time.monotonic()
    assert_refused(invoke("run", path), *parts)
    assert [p.name for p in tmp_path.iterdir()] == ["lab.yaml"]
    assert not trained
    assert time.monotonic() - begun < 15


@pytest.mark.parametrize(
    "case", ["an unreachable tracking server", "a model that does not take the data", "a need that is not met"]
)
def test_a_refused_run_leaves_earlier_results_as_they_were(
    invoke: Run, file: Callable[..., str], tmp_path: Path, case: str
) -> None:
    results = tmp_path / "runs" / "lab" / "cells" / "lab"
    results.mkdir(parents=True)
    (results / "outcome.json").write_text("{}")
    assert_refused(invoke("run", file(**{**BAD, **AT_RUN}[case][0])))
    assert (results / "outcome.json").read_text() == "{}"


def test_a_server_that_hangs_is_refused_in_time(invoke: Run, file: Callable[..., str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        uri = f"http://127.0.0.1:{server.getsockname()[1]}"
        begun = time.monotonic()
        assert_refused(invoke("run", file(tracking={"uri": uri})), uri)
        assert time.monotonic() - begun < 15
    assert [p.name for p in tmp_path.iterdir()] == ["lab.yaml"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("seed: [1", ("is no YAML",)),
        ("- 1\n- 2\n", ("holds list; an experiment file is a mapping of sections",)),
        ("", ("holds NoneType; an experiment file is a mapping",)),
        ("\x00", ("is no YAML",)),
        ("seed: 1\n", ("dataset is missing; it is required", "model is missing")),
        ("dataset: digits\nmodel: {name: line}\n", ("dataset is 'digits'",)),
        ("!!python/object/apply:os.system ['true']", ("is no YAML",)),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(invoke: Run, tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(text)
    assert_refused(invoke("check", str(path)), *parts)


REAL: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "a misspelt defence": ({"defences": ["nomr-clip"]}, ("did you mean 'norm-clip'?",)),
    "a misspelt option": ({"defences": [{"norm-clip": {"bond": 1}}]}, ("did you mean 'bound'?",)),
    "noise before the bound": (
        {"defences": ["gauss-noise", "norm-clip"]},
        ("this order type-checks", "norm-clip >> gauss-noise"),
    ),
    "two rules": ({"defences": ["mean", "median"]}, ("two aggregators, 'mean' (sparring-aggregation", "a run has one")),
    "a rule that the cohort is too small for": ({"defences": [{"krum": {"f": 3}}]}, ("2f + 2 < n",)),
    "a folder that is not there": ({"dataset": {"name": "mnist", "root": "/nowhere/at/all"}}, ("/nowhere/at/all",)),
    "a file that is not there": ({"dataset": {"name": "arrays", "path": "/nowhere.npz"}}, ("/nowhere.npz",)),
    "images for a table": ({"dataset": {"name": "breast-cancer"}, "model": {"name": "lenet-zhu"}}, ("lenet-zhu", "(30,)")),
}


@pytest.mark.parametrize("case", REAL)
def test_the_plugins_of_this_checkout_refuse_alike(invoke: Run, file: Callable[..., str], tmp_path: Path, case: str) -> None:
    sections, parts = REAL[case]
    needed = {
        "norm-clip",
        "gauss-noise",
        "mean",
        "median",
        "krum",
        "mnist",
        "arrays",
        "digits",
        "mlp",
        "breast-cancer",
        "lenet-zhu",
    }
    if not needed <= {entry.name for entry in registry.entries()}:
        pytest.skip("the plugins of this checkout are not installed")
    path = file(**{"dataset": {"name": "digits"}, "model": {"name": "mlp"}, **sections})
    assert_refused(invoke("run", path), *parts)
    assert [p.name for p in tmp_path.iterdir()] == ["lab.yaml"]


def test_a_file_that_is_not_there_is_refused(invoke: Run, tmp_path: Path) -> None:
    assert_refused(
        invoke("check", "nowhere.yaml"), "cannot read nowhere.yaml: No such file or directory; name an experiment file"
    )
    assert_refused(invoke("check", str(tmp_path)), "Is a directory")


# Running.


def test_a_run_ends_with_its_table_and_how_to_open_the_store(invoke: Run, file: Callable[..., str], tmp_path: Path) -> None:
    ended = invoke("run", file(defences=["clip"]))
    assert ended.status == 0, ended
    assert "test accuracy" in ended.out
    assert ended.out.splitlines()[-1].startswith("to open the tracking UI: ")
    assert "mlflow" in ended.out.splitlines()[-1]
    outcome = json.loads((tmp_path / "runs" / "lab" / "cells" / "lab" / "outcome.json").read_text())
    assert [round_ for round_, _, _ in outcome["history"]] == [0, 1]


def _spoil(text: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        path = folder / "checkpoint.json"
        path.write_bytes(text(path.read_bytes()))

    return spoil


def _spoil_tensors(folder: Path) -> None:
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")


@pytest.mark.parametrize("spoil", [_spoil(lambda data: data[:-30]), _spoil_tensors], ids=["truncated JSON", "a flipped bit"])
def test_a_corrupt_checkpoint_is_refused(invoke: Run, file: Callable[..., str], tmp_path: Path, spoil: Any) -> None:
    path = file()
    assert invoke("run", path).status == 0
    folder = tmp_path / "runs" / "lab" / "cells" / "lab" / "checkpoint"
    spoil(folder)
    before = {p: p.read_bytes() for p in folder.iterdir()}
    assert_refused(invoke("run", path, "--resume"), str(Path("runs/lab/cells/lab/checkpoint")), "corrupt", "without --resume")
    assert {p: p.read_bytes() for p in folder.iterdir()} == before
    assert invoke("run", path).status == 0


def test_a_foreign_checkpoint_is_refused(invoke: Run, file: Callable[..., str]) -> None:
    assert invoke("run", file()).status == 0
    path = file(seed=9)
    assert_refused(invoke("run", path, "--resume"), "belongs to another experiment", "without --resume")


def test_a_record_of_runs_that_is_corrupt_is_refused(invoke: Run, file: Callable[..., str], tmp_path: Path) -> None:
    path = file()
    assert invoke("run", path).status == 0
    (tmp_path / "runs" / "lab" / "tracking.json").write_text("{")
    assert_refused(invoke("run", path, "--resume"), "tracking.json", "corrupt", "without --resume")


@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_full_disk_is_refused_and_leaves_no_half_file(
    invoke: Run, file: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The disk fills at one file after the other: the record of runs, tensors, a checkpoint, the table."""
    plain, seen = Path.open, [0]

    def full(path: Path, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        seen[0] += mode == "wb"
        if mode == "wb" and seen[0] >= at:
            with plain(path, mode) as stream:
                stream.write(b"half")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return plain(path, mode, *arguments, **options)

    path = file()
    monkeypatch.setattr(Path, "open", full)
    assert_refused(
        invoke("run", path), "cannot write", "No space left on device; free space or choose another folder with --into"
    )
    assert not list(tmp_path.rglob("*.part"))
    monkeypatch.setattr(Path, "open", plain)
    assert invoke("run", path, "--resume").status == 0


def test_a_folder_that_cannot_be_written_is_refused(invoke: Run, file: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "occupied").write_text("")
    assert_refused(invoke("run", file(), "--into", "occupied/lab"), "occupied")


def test_strict_refuses_a_layer_that_never_acted(invoke: Run, file: Callable[..., str]) -> None:
    path = file(defences=[{"clip": {"bound": 100}}])
    assert invoke("run", path).status == 0
    ended = invoke("run", path, "--strict")
    assert ended.status == 2
    assert "'clip' never changed anything" in ended.out


# Overrides.


def test_overrides_reach_any_depth(invoke: Run, file: Callable[..., str], tmp_path: Path) -> None:
    path = file(defences=["clip"])
    sets = ("federation.rounds=3", "federation.optimiser.lr=0.5", "defences.0.clip.bound=2.5", "model.name=net", "seed=4")
    ended = invoke("run", path, *(part for item in sets for part in ("--set", item)))
    assert ended.status == 0, ended
    outcome = json.loads((tmp_path / "runs" / "lab" / "cells" / "lab" / "outcome.json").read_text())
    assert len(outcome["history"]) == 3


def test_an_override_is_seen_by_check(invoke: Run, file: Callable[..., str]) -> None:
    ended = invoke("check", file(), "--set", "defences=[clip]", "--set", "engine={name: stacked}")
    assert ended.status == 0, ended
    assert "clip" in ended.out.splitlines()[1]


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("rounds", ("--set 'rounds': write key=value",)),
        ("=3", ("write key=value",)),
        ("federation.round=3", ("federation.round is no option here; did you mean 'rounds'?",)),
        ("seed.x=3", ("--set seed.x: ",)),
        ("defences.3.clip.bound=1", ("--set defences.3.clip.bound: '3' must be a position from 0 to 0",)),
        ("defences.one=1", ("'one' must be a position",)),
        ("federation.rounds=[", ("--set federation.rounds: '[' is no YAML",)),
        ("federation.rounds=-1", ("federation.rounds is -1",)),
        ("a..b=1", ("a",)),
    ],
)
def test_an_override_that_fits_nowhere_is_refused(
    invoke: Run, file: Callable[..., str], override: str, parts: tuple[str, ...]
) -> None:
    assert_refused(invoke("check", file(seed=1, defences=["clip"]), "--set", override), *parts)


# The other commands.


def test_check_says_what_holds(invoke: Run, file: Callable[..., str]) -> None:
    ended = invoke("check", file(cells=[{"name": "plain"}, {"name": "clipped", "defences": ["clip", "needy"]}]))
    assert ended.status == 0
    assert "== plain\ntype-checks" in ended.out
    assert "== clipped\ntype-checks: " in ended.out
    assert "+Clipped(l2, client" in ended.out


def test_check_counts_the_cells_that_fail(invoke: Run, file: Callable[..., str]) -> None:
    ended = invoke("check", file(cells=[{"name": "plain"}, {"name": "bare", "defences": ["needy"]}]))
    assert_refused(ended, "1 of 2 cells do not type-check: bare")
    assert "== plain\ntype-checks" in ended.out


def test_the_schema_describes_every_option(invoke: Run) -> None:
    schema = json.loads(invoke("schema").out)
    assert schema["$schema"].endswith("2020-12/schema")
    assert set(schema["properties"]) == set(File.model_fields)
    for definition in (schema, *schema["$defs"].values()):
        for name, option in definition["properties"].items():
            assert option.get("description"), name


KEYWORDS = {
    "$ref", "additionalProperties", "anyOf", "const", "default", "description", "enum", "exclusiveMaximum", "exclusiveMinimum",
    "items", "maximum", "maxItems", "minimum", "minItems", "maxLength", "minLength", "pattern", "properties", "required",
    "title", "type",
}  # fmt: skip
TYPES = {"array", "boolean", "integer", "null", "number", "object", "string"}


def faults(schema: Any, definitions: dict[str, Any]) -> list[str]:
    """What is no JSON Schema in a schema without conditions."""
    if isinstance(schema, bool):
        return []
    found = [f"keyword {key}" for key in set(schema) - KEYWORDS]
    found += [f"type {schema['type']}"] if schema.get("type", "object") not in TYPES else []
    found += (
        [f"reference {schema['$ref']}"]
        if schema.get("$ref", "#/$defs/File").removeprefix("#/$defs/") not in definitions
        else []
    )
    found += [f"required {name}" for name in schema.get("required", ()) if name not in schema["properties"]]
    parts = [*schema.get("properties", {}).values(), *schema.get("anyOf", ())]
    parts += [schema[key] for key in ("items", "additionalProperties") if key in schema]
    return found + [fault for part in parts for fault in faults(part, definitions)]


def test_the_schema_is_json_schema(invoke: Run) -> None:
    schema = json.loads(invoke("schema").out)
    definitions = schema.pop("$defs")
    schema.pop("$schema")
    for part in (schema, *definitions.values()):
        assert faults(part, {**definitions, "File": schema}) == []
        assert part["additionalProperties"] is (part.get("title") in ("Named", "DatasetSection"))
    assert schema["required"] == ["dataset", "model"]
    assert schema["properties"]["seed"]["minimum"] == 0


def test_the_schema_tells_good_files_from_bad(invoke: Run) -> None:
    validator = pytest.importorskip("jsonschema").Draft202012Validator
    schema = json.loads(invoke("schema").out)
    validator.check_schema(schema)
    good = validator(schema).is_valid
    assert good(BASE)
    assert not good({**BASE, "federaton": {}})
    assert not good({**BASE, "federation": {"rounds": 0}})
    assert not good({"model": {"name": "line"}})
    for path in sorted((Path(__file__).parents[2] / "experiments").glob("*.yaml")):
        assert good(yaml.safe_load(path.read_text())), path.name


def installed() -> list[Entry]:
    return [entry for entry in registry.entries() if entry.kind != "commands"]


@pytest.mark.parametrize("entry", installed(), ids=lambda entry: f"{entry.kind}-{entry.name}")
def test_show_describes_every_installed_technique(invoke: Run, entry: Entry) -> None:
    ended = invoke("show", entry.name)
    assert ended.status == 0, ended
    spec: Any = registry.load(entry)
    assert ended.out.startswith(f"{entry.name} ({entry.kind.rstrip('s')}, {entry})\n{spec.summary}\n")
    for option, schema in spec.config.model_json_schema().get("properties", {}).items():
        assert option in ended.out
        assert schema["description"] in ended.out
    rows = [line.split() for line in ended.out.splitlines()]
    assert "value" not in {row[1] for row in rows if row and row[0] in spec.config.model_fields}


def test_show_of_an_unknown_technique_is_refused(invoke: Run) -> None:
    assert_refused(invoke("show", "clpi"), "'clpi' is installed", "did you mean 'clip'?")
    assert_refused(invoke("show", "hammer"), "pip install sparring-hammer")


def test_show_prints_bounds_and_facts(invoke: Run) -> None:
    out = invoke("show", "clip").out
    assert "number > 0 <= 100" in out
    assert "gives   Clipped(l2, client" in out


def test_list_names_each_technique_with_its_distribution(invoke: Run) -> None:
    out = invoke("list").out
    assert any(line.split() == ["defences", "clip", "sparring-lab", "1.0"] for line in out.splitlines())
    found = json.loads(invoke("list", "models", "--json").out)
    assert {"kind": "models", "name": "net", "distribution": "sparring-lab 1.0", "state": None} in found


def test_list_verify_names_what_is_broken(invoke: Run, offer: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    from sparring import listing

    known = (*registry.entries(), Entry("attacks", "cracked", "no_such_module", "sparring-cracked", "0.3"))
    monkeypatch.setattr(registry, "entries", lambda: known)
    monkeypatch.setattr(listing, "entries", lambda: known)
    ended = invoke("list", "--verify")
    assert ended.status == 0
    (line,) = [line for line in ended.out.splitlines() if "cracked" in line]
    assert "broken: importing it raised ModuleNotFoundError" in line
    assert any("clip" in line and line.endswith("ok") for line in ended.out.splitlines())


def test_list_of_an_unknown_kind_is_refused(invoke: Run) -> None:
    assert_refused(invoke("list", "defenses"), "no technique of kind 'defenses'", "did you mean 'defences'?")


def test_a_real_process_ends_with_status_2_and_no_traceback(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text("dataset: {name: digist}\nmodel: {name: mlp}\n")
    done = subprocess.run(
        [sys.executable, "-m", "sparring", "run", str(path)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert_refused(Ended(done.returncode, done.stdout, done.stderr), "no dataset 'digist' is installed")
    assert [p.name for p in tmp_path.iterdir()] == ["lab.yaml"]
