"""Tracking: what is logged can be read back, secrets are not in it, and a store that cannot be used is refused at once."""

from __future__ import annotations

import json
import logging
import math
import resource
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparring import _mlflow
from sparring import tracking as tracking_module
from sparring.errors import TrackingError
from sparring.masking import MASK, flattened, masked, masked_text, mlflow_name
from sparring.tracking import Run, Tracker


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("a store")


@pytest.fixture(scope="module")
def tracker(folder: Path) -> Iterator[Tracker]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield Tracker.open(None, "tests", folder)


def stored(tracker: Tracker, run: Run, path: str) -> str:
    return Path(tracker.client.download_artifacts(run.id, path)).read_text()


def history(tracker: Tracker, run: Run, name: str) -> list[tuple[int, float]]:
    return [(m.step, m.value) for m in tracker.client.get_metric_history(run.id, name)]


# --- the store


def test_the_default_store_lies_in_the_folder(tracker: Tracker, folder: Path) -> None:
    assert tracker.uri == f"sqlite:///{folder}/mlruns.db"
    run = tracker.start("artefacts")
    run.text("note.txt", "hello")
    assert (folder / "mlartifacts" / run.id / "artifacts" / "note.txt").read_text() == "hello"
    assert not list(folder.glob(".mlruns-*"))


def test_opening_again_finds_the_same_experiment(tracker: Tracker, folder: Path) -> None:
    assert Tracker.open(f"sqlite:///{folder}/mlruns.db", "tests", Path("elsewhere")).experiment_id == tracker.experiment_id


def test_the_environment_picks_the_store_and_the_file_overrules_it(
    tracker: Tracker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker.uri)
    assert Tracker.open(None, "tests", tmp_path).uri == tracker.uri
    with pytest.raises(TrackingError, match="file:///x"):
        Tracker.open("file:///x", "tests", tmp_path)


def test_a_store_that_was_deleted_is_made_anew_in_the_same_process(tmp_path: Path) -> None:
    for _ in range(2):
        tracker = Tracker.open(None, "again", tmp_path)
        tracker.start("one").finish()
        with sqlite3.connect(tmp_path / "mlruns.db") as connection:
            assert connection.execute("select count(*) from runs").fetchone() == (1,)
        connection.close()
        (tmp_path / "mlruns.db").unlink()


def test_nothing_is_said_and_logging_stays_as_it_was(
    tracker: Tracker, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    before = logging.getLogger("mlflow").level
    tracker.start("quiet", params={"long": "x" * 9000}).finish()
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
    assert logging.getLogger("mlflow").level == before


def test_import_needs_neither_mlflow_nor_torch() -> None:
    code = "import sys, sparring.tracking; print(sorted({'mlflow', 'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


# --- refusals


def refused(uri: str | None, folder: Path, experiment: str = "tests") -> str:
    started = time.monotonic()
    with pytest.raises(TrackingError) as caught:
        Tracker.open(uri, experiment, folder)
    assert time.monotonic() - started < 10
    return str(caught.value)


def test_an_unreachable_server_is_refused_at_once_and_its_password_is_not_printed(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    message = refused(f"http://ann:s3cret@127.0.0.1:{port}", tmp_path)
    assert f"http://{MASK}@127.0.0.1:{port}" in message
    assert "onnection refused" in message
    assert "unset MLFLOW_TRACKING_URI" in message
    assert "s3cret" not in message


def test_a_server_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_mlflow, "PATIENCE", 0.3)
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        assert "no answer within 0.3 s" in refused(f"http://127.0.0.1:{mute.getsockname()[1]}", tmp_path)


@pytest.mark.parametrize("uri", ["file:///tmp/mlruns", "./mlruns", "mlruns"])
def test_a_plain_folder_is_refused_with_what_to_use(uri: str, tmp_path: Path) -> None:
    message = refused(uri, tmp_path)
    assert uri in message
    assert "sqlite:///path/mlruns.db" in message


@pytest.mark.parametrize("uri", ["sqlite://", "sqlite:///:memory:", "sqlite:////tmp/a?b.db", "sqlite:////tmp/100%/a.db"])
def test_an_sqlite_store_is_a_file_that_its_uri_can_name(uri: str, tmp_path: Path) -> None:
    assert uri in refused(uri, tmp_path)


def test_an_unknown_scheme_is_refused(tmp_path: Path) -> None:
    assert "foo://***@host" in refused("foo://a:b@host", tmp_path)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert str(tmp_path / "file" / "below") in refused(None, tmp_path / "file" / "below")


def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlruns.db").write_text("precious" * 100)
    assert "not a database" in refused(None, tmp_path)
    assert (tmp_path / "mlruns.db").read_text() == "precious" * 100


def test_a_full_disk_is_refused_and_leaves_nothing_half_written(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        message = refused(None, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path) in message
    assert "disk" in message
    assert not list(tmp_path.iterdir())


def test_a_deleted_experiment_is_refused(tracker: Tracker, folder: Path) -> None:
    gone = Tracker.open(None, "gone", folder)
    gone.client.delete_experiment(gone.experiment_id)
    assert "restore" in refused(None, folder, "gone")


def test_a_run_that_is_not_there_cannot_be_resumed(tracker: Tracker) -> None:
    with pytest.raises(TrackingError, match="cannot resume run 'abc'"):
        tracker.resume("abc")


def test_a_failure_while_running_is_a_tracking_error(tracker: Tracker, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="absent"):
        tracker.start("broken").file(tmp_path / "absent")


# --- runs


def test_a_child_points_to_its_parent(tracker: Tracker) -> None:
    parent = tracker.start("sweep", tags={"kind": "parent"})
    child = tracker.start("cell", parent=parent.id)
    tags = tracker.client.get_run(child.id).data.tags
    assert tags["mlflow.parentRunId"] == parent.id
    assert tags["mlflow.runName"] == "cell"
    assert tracker.client.get_run(parent.id).data.tags["kind"] == "parent"


@pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
def test_finish_sets_the_status_and_sends_the_rest(tracker: Tracker, status: Any) -> None:
    run = tracker.start("status")
    run.metrics(0, {"loss": 1.0})
    assert not history(tracker, run, "loss")
    run.finish(status)
    assert tracker.client.get_run(run.id).info.status == status
    assert history(tracker, run, "loss") == [(0, 1.0)]


def test_metrics_are_sent_in_few_batches(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    run, sizes = tracker.start("batches"), []
    send = tracker.client.log_batch

    def counted(run_id: str, metrics: Any = (), **rest: Any) -> None:
        sizes.append(len(metrics))
        send(run_id, metrics=metrics, **rest)

    monkeypatch.setattr(tracker.client, "log_batch", counted)
    for step in range(150):
        run.metrics(step, {f"m{k}": float(step) for k in range(10)})
    run.finish()
    assert sizes == [1000, 500]
    assert history(tracker, run, "m9") == [(step, float(step)) for step in range(150)]


def test_metrics_are_sent_on_their_own_after_a_while(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_module, "FLUSH", 0.0)
    run = tracker.start("flush")
    run.metrics(0, {"loss": 1.0})
    assert history(tracker, run, "loss") == [(0, 1.0)]


def test_a_resumed_run_logs_only_what_it_does_not_hold(tracker: Tracker) -> None:
    run = tracker.start("killed")
    for step in range(3):
        run.metrics(step, {"loss": float(step), "epsilon": math.inf})
    run.finish("KILLED")
    again = tracker.resume(run.id)
    assert tracker.client.get_run(run.id).info.status == "RUNNING"
    for step in range(5):
        again.metrics(step, {"loss": float(step), "new": 0.0, "epsilon": math.inf})
    again.finish()
    assert history(tracker, run, "loss") == [(step, float(step)) for step in range(5)]
    assert len(history(tracker, run, "new")) == 5
    assert tracker.client.get_run(run.id).data.tags["non-finite.epsilon"] == "inf at step 0"
    assert tracker.client.get_run(run.id).info.status == "FINISHED"


def test_non_finite_metrics_are_left_out_and_said_so(tracker: Tracker) -> None:
    run = tracker.start("nan")
    for step, value in enumerate([1.0, math.nan, -math.inf]):
        run.metrics(step, {"loss": value})
    run.finish()
    assert history(tracker, run, "loss") == [(0, 1.0)]
    assert tracker.client.get_run(run.id).data.tags["non-finite.loss"] == "nan at step 1"


def test_parameters_of_any_number_and_length_are_kept(tracker: Tracker) -> None:
    params = {
        "federation": {"clients": 8, "server": {"lr": None, "momentum": 0.9}},
        "defences": [{"norm-clip": {"bound": 1.0}}, "mean"],
        "sizes": [1, 2],
        "text": "x" * 20_000,
        "many": {f"k{k}": k for k in range(250)},
    }
    run = tracker.start("params", params=params, tags={"note": "y" * 20_000})
    kept = tracker.client.get_run(run.id).data.params
    assert kept["federation.server.lr"] == "null"
    assert kept["federation.server.momentum"] == "0.9"
    assert kept["defences.0.norm-clip.bound"] == "1.0"
    assert kept["defences.1"] == "mean"
    assert kept["sizes"] == "[1, 2]"
    assert kept["many.k249"] == "249"
    assert len(kept["text"]) == 500
    assert json.loads(stored(tracker, run, "long-values.json")) == {
        "params": {"text": "x" * 20_000},
        "tags": {"note": "y" * 20_000},
    }


def test_artefacts_can_be_read(tracker: Tracker, tmp_path: Path) -> None:
    run = tracker.start("artefacts")
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    run.file(tmp_path / "picture.png", "pictures")
    run.json("claims/all.json", {"epsilon": math.inf, "layers": ("a", "b")})
    run.text("stack.txt", "mean\n")
    assert tracker.client.list_artifacts(run.id, "pictures")[0].path == "pictures/picture.png"
    assert json.loads(stored(tracker, run, "claims/all.json")) == {"epsilon": "inf", "layers": ["a", "b"]}
    assert stored(tracker, run, "stack.txt") == "mean\n"


def test_no_secret_reaches_the_store(tracker: Tracker, folder: Path) -> None:
    secret = "hunter2xyz"
    params = {"host": {"api_key": secret, "url": f"http://ann:{secret}@host/?token={secret}&n=1"}, "secrets": {"a": secret}}
    run = tracker.start("secrets", params=params, tags={"password": secret})
    run.json("a.json", params)
    run.text("b.txt", f"password: {secret}\nhttps://{secret}@host\nAPI_TOKEN={secret}")
    run.finish()
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert any(path.name == "b.txt" for path in files)
    assert not [path for path in files if secret.encode() in path.read_bytes()]
    assert tracker.client.get_run(run.id).data.params["host.url"] == f"http://{MASK}@host/?token={MASK}&n=1"


# --- the line that opens the UI


def test_ui_command_is_relative_below_the_current_folder(
    tracker: Tracker, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert tracker.ui_command().endswith(f" ui --backend-store-uri 'sqlite:///{folder.name}/mlruns.db'")
    monkeypatch.chdir("/")
    monkeypatch.setattr(Path, "is_relative_to", lambda *_: False)
    assert tracker.ui_command().endswith(f" ui --backend-store-uri 'sqlite:///{folder}/mlruns.db'")


def test_ui_command_of_a_server_is_its_address(tracker: Tracker) -> None:
    assert Tracker("http://a:b@host:5000", "x", "1", tracker.client).ui_command() == f"http://{MASK}@host:5000"
    assert "b@host" not in Tracker("postgresql://a:b@host/x", "x", "1", tracker.client).ui_command()


def test_ui_command_installs_the_ui_where_it_is_missing(tracker: Tracker, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert tracker.ui_command().startswith("pip install 'sparring[tracking]' && mlflow ui ")


# --- masking

KEYS = ["token", "auth_token", "apiToken", "client-secret", "SECRETS", "password", "db.passwd", "api_key", "apikey", "api-keys"]


@pytest.mark.parametrize("key", KEYS)
def test_what_a_secret_key_holds_is_masked(key: str) -> None:
    assert masked({key: "v", "n": [{key: 123}]}) == {key: MASK, "n": [{key: MASK}]}
    assert "v4lue" not in masked_text(f'{key}: v4lue\n{key}=v4lue "{key}": "v4lue, v4lue" {{{key}: v4lue}}')


def test_what_only_looks_secret_is_kept() -> None:
    kept = {"tokenizer": "bert", "secretary": 1, "secret-sharing": {"threshold": 3}, "use_token": True, "key": "k"}
    assert masked(kept) == kept
    prose = "secret-sharing: \n  threshold: 3\nthe token bucket\nhttp://host:80/@x"
    assert masked_text(prose) == prose


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), plain, max_size=4))
def test_anything_nested_becomes_json_and_names_that_mlflow_takes(value: dict[str, Any]) -> None:
    json.dumps(masked(value), allow_nan=False)
    assert masked(masked(value)) == masked(value)
    for key in flattened(value):
        assert_mlflow_takes(key)


@given(st.text(max_size=300) | st.sampled_from(["/a", "../a", "a//b", ".", "..", "a/./b", "a/", "./", "a/../.."]))
def test_any_text_becomes_a_name_that_mlflow_takes(text: str) -> None:
    assert_mlflow_takes(mlflow_name(text))
    assert mlflow_name(mlflow_name(text)) == mlflow_name(text)


def assert_mlflow_takes(name: str) -> None:
    from mlflow.entities import Param
    from mlflow.utils.validation import _validate_param

    _validate_param(Param(name, "").key, "")  # type: ignore[no-untyped-call]
    assert 0 < len(name) <= 250


@pytest.mark.parametrize("piece", ["x", "token", "password: ", "api_key='", "://", "a@", " "])
def test_masking_takes_time_in_proportion_to_the_text(piece: str) -> None:
    started = time.monotonic()
    masked_text(piece * 50_000)
    assert time.monotonic() - started < 2
