"""MLflow's stores, made silent, prompt and atomic: whatever is wrong with one is known before training starts."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import sqlite3
import tempfile
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from sparring.errors import TrackingError
from sparring.masking import masked_text

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

T = TypeVar("T")
PATIENCE = 8.0
"""Seconds that a store has to answer before training starts."""


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """A client of the store at ``uri`` and the experiment's id, created where absent; `TrackingError` within ten seconds."""
    with store(uri, f"open experiment '{experiment}'"):
        from mlflow.tracking import MlflowClient

        db = database(uri)
        if db is None:
            # MLflow's own retries take minutes.
            with _environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0", MLFLOW_HTTP_REQUEST_TIMEOUT="7"):
                return _within(PATIENCE, lambda: _experiment(MlflowClient(tracking_uri=uri), experiment, None))
        if not db.exists():
            _create(db)
        _probe(db)
        # A pooled connection would go on writing to a file that the user deleted and this process made anew.
        with _environment(MLFLOW_SQLALCHEMYSTORE_POOLCLASS="NullPool"):
            return _experiment(MlflowClient(tracking_uri=uri), experiment, _artefacts(db))


@contextlib.contextmanager
def store(uri: str, doing: str) -> Iterator[None]:
    """Silence MLflow and what it stands on, and turn every failure inside into a `TrackingError`."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow.tracking  # noqa: F401 - it configures the loggers that are silenced next

        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic", "sqlalchemy", "urllib3")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        except TrackingError:
            raise
        except Exception as error:
            fix = "start the server, or unset MLFLOW_TRACKING_URI and tracking.uri to use SQLite beside the run"
            if (db := database(uri)) is not None:
                fix = f"check that {db} can be written and its disk is not full, or set tracking.uri"
            if isinstance(error, ModuleNotFoundError):
                fix = f"pip install {error.name}"
            raise TrackingError(f"tracking store {masked_text(uri)} cannot {doing}: {_reason(error)}; {fix}") from error
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _reason(error: BaseException) -> str:
    """The first line of what was at the bottom of an error."""
    while error.__cause__ is not None:
        error = error.__cause__
    first = next(iter(masked_text(str(error)).strip().splitlines()), "") or type(error).__name__
    if caused := re.search(r"\(Caused by \w+\([\"'](.*)[\"']\)", first):
        first = caused[1]
    return first[:300]


def database(uri: str) -> Path | None:
    """The file behind an SQLite URI."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///(.*)", uri)
    return Path(found[1]).absolute() if found else None


def checked(uri: str) -> str:
    """``uri`` with an absolute path, or a `TrackingError` where no store can be."""
    scheme = uri.partition(":")[0] if "://" in uri or uri.startswith(("file:", "databricks")) else "file"
    if scheme == "file":
        raise TrackingError(
            f"tracking uri is '{masked_text(uri)}'; MLflow keeps no runs in plain folders any more: "
            "use sqlite:///path/mlruns.db or a server's address, http://host:port"
        )
    if not scheme.startswith("sqlite"):
        return uri
    db = database(uri)
    if db is None or db.name in ("", ":memory:") or re.search("[?%]", str(db)):
        raise TrackingError(
            f"tracking uri is '{uri}'; an SQLite store is a file whose path holds no ? and no %: "
            "use sqlite:///path/mlruns.db, or run in another folder"
        )
    return f"sqlite:///{db.as_posix()}"


def _experiment(client: MlflowClient, name: str, artefacts: str | None) -> tuple[MlflowClient, str]:
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        # Another process may create it in between.
        with contextlib.suppress(MlflowException):
            return client, client.create_experiment(name, artifact_location=artefacts)
        found = client.get_experiment_by_name(name)
    if found is None:
        return client, client.create_experiment(name, artifact_location=artefacts)
    if found.lifecycle_stage != "active":
        raise TrackingError(
            f"tracking.experiment is '{name}', which is deleted in MLflow; runs need an active one: "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`, or set another name"
        )
    return client, found.experiment_id


def _artefacts(db: Path) -> str:
    return (db.parent / "mlartifacts").as_uri()


def _create(db: Path) -> None:
    """An empty store at ``db``, migrated in memory (several times faster than on a disk) and put in place in one step.

    A process that is killed leaves no half-made store; of two that start at once one wins, and both use its file.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    db.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".mlruns-", dir=db.parent) as scratch:
        fresh = Path(scratch, db.name)
        memory: Any = SqlAlchemyStore("sqlite:///:memory:", _artefacts(db))  # type: ignore[no-untyped-call]
        source, target = memory.engine.raw_connection(), sqlite3.connect(fresh)
        try:
            source.driver_connection.backup(target)
        finally:
            target.close()
            source.close()
            memory.engine.dispose()
        try:
            os.link(fresh, db)
        except FileExistsError:
            return
        except OSError:  # a file system without hard links
            fresh.replace(db)


def _probe(db: Path) -> None:
    """Raise at once where MLflow would retry for minutes: no database, read-only, locked."""
    connection = sqlite3.connect(db, timeout=PATIENCE, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE sparring_probe (x)")
        connection.execute("ROLLBACK")
    finally:
        connection.close()


@contextlib.contextmanager
def _environment(**wanted: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _within(seconds: float, call: Callable[[], T]) -> T:
    """The result of ``call``, or `TimeoutError`; a call that hangs is left behind in a daemon thread."""
    done: list[T] = []
    failed: list[Exception] = []

    def work() -> None:
        try:
            done.append(call())
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer within {seconds:g} s")
    return done[0]
