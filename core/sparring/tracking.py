"""Tracking: runs, numbers and artefacts in MLflow, through an explicit client and run id; never an active run.

Store calls are silent, raise `TrackingError` alone, and pass everything through `sparring.masking`: no secret is logged.
"""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from sparring._mlflow import checked, connect, database, store
from sparring.masking import flattened, masked, masked_text, mlflow_name

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

T = TypeVar("T")
Status = Literal["FINISHED", "FAILED", "KILLED"]
FLUSH = 2.0
"""Seconds between flushes of metrics."""
PARAM, TAG = 500, 5000
"""Characters of a parameter and of a tag that older servers take too; the whole of longer ones goes to `long-values.json`."""
ODD = "non-finite."


@dataclass(frozen=True)
class Tracker:
    """An MLflow experiment in a store that has answered."""

    uri: str
    experiment: str
    experiment_id: str
    client: MlflowClient = field(repr=False)

    @classmethod
    def open(cls, uri: str | None, experiment: str, folder: Path) -> Tracker:
        """The experiment at ``uri``, else at ``MLFLOW_TRACKING_URI``, else in ``folder``/mlruns.db; created where absent.

        Artefacts of an SQLite store lie in ``mlartifacts`` beside it. Raises `TrackingError` within about ten seconds where
        the store cannot be used.
        """
        given = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.absolute().as_posix()}/mlruns.db"
        uri = checked(given)
        client, number = connect(uri, experiment)
        return cls(uri, experiment, number, client)

    def start(
        self,
        name: str,
        parent: str | None = None,
        tags: Mapping[str, Any] | None = None,
        params: Mapping[str, Any] | None = None,
    ) -> Run:
        """A new run, below the run ``parent`` if given. ``params`` nest to any depth and hold values of any length."""
        full = {"params": flattened(params or {}), "tags": flattened(tags or {})}
        long = {
            kind: {key: value for key, value in full[kind].items() if len(value) > limit}
            for kind, limit in (("params", PARAM), ("tags", TAG))
        }
        short = [{"key": key, "value": _cut(value, PARAM)} for key, value in full["params"].items()]
        marks = {key: _cut(value, TAG) for key, value in full["tags"].items()}
        if parent is not None:
            marks["mlflow.parentRunId"] = parent
        with store(self.uri, f"start run '{name}'"):
            from mlflow.entities import Param

            run = Run(self, self.client.create_run(self.experiment_id, tags=marks, run_name=name).info.run_id)
            for params_ in _chunks([Param(**pair) for pair in short], 100):
                self.client.log_batch(run.id, params=params_)
        if any(long.values()):
            run.json("long-values.json", {kind: values for kind, values in long.items() if values})
        return run

    def resume(self, run_id: str) -> Run:
        """The run ``run_id``, running again; metrics that it holds already are not logged twice."""
        with store(self.uri, f"resume run '{run_id}'"):
            found = self.client.get_run(run_id)
            self.client.update_run(run_id, status="RUNNING")
            return Run(self, run_id, _logged={}, _odd={tag for tag in found.data.tags if tag.startswith(ODD)})

    def ui_command(self) -> str:
        """What a user pastes to see the runs: a command for a shell in this folder, or a server's address for a browser."""
        if self.uri.startswith(("http://", "https://")):
            return masked_text(self.uri)
        uri = shlex.quote(self.uri) if masked_text(self.uri) == self.uri else '"$MLFLOW_TRACKING_URI"'
        if (db := database(self.uri)) is not None:
            uri = shlex.quote(f"sqlite:///{_relative(db)}")
        beside = Path(sys.executable).with_name("mlflow")
        found = shutil.which("mlflow")
        program = "mlflow" if not beside.exists() or (found and Path(found) == beside) else shlex.quote(_relative(beside))
        try:
            metadata.version("mlflow")
        except metadata.PackageNotFoundError:
            program = "pip install 'sparring[tracking]' && mlflow"
        return f"{program} ui --backend-store-uri {uri}"


@dataclass
class Run:
    """One MLflow run, by its id."""

    tracker: Tracker
    id: str
    _logged: dict[str, set[int]] | None = field(default=None, repr=False)
    _odd: set[str] = field(default_factory=set, repr=False)
    _metrics: list[Metric] = field(default_factory=list, repr=False)
    _tags: dict[str, str] = field(default_factory=dict, repr=False)
    _flushed: float = field(default_factory=time.monotonic, repr=False)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Log ``values`` at ``step``: kept in memory, and sent in one batch every `FLUSH` seconds.

        Non-finite values are left out, for stores turn an infinity into 1.8e308 and charts break: the tag
        ``non-finite.<name>`` says what stood there first. A resumed run leaves out what it holds already.
        """
        from mlflow.entities import Metric

        now = time.time_ns() // 1_000_000
        for name, value in ((mlflow_name(name), float(value)) for name, value in values.items()):
            if not math.isfinite(value):
                if ODD + name not in self._odd:
                    self._odd.add(ODD + name)
                    self._tags[ODD + name] = f"{value} at step {step}"
            elif step not in self._steps(name):
                self._metrics.append(Metric(name, value, now, step))
        if time.monotonic() - self._flushed >= FLUSH:
            self.flush()

    def _steps(self, name: str) -> set[int]:
        if self._logged is None:
            return set()
        if name not in self._logged:
            with store(self.tracker.uri, f"read metric '{name}' of run '{self.id}'"):
                self._logged[name] = {metric.step for metric in self.tracker.client.get_metric_history(self.id, name)}
        return self._logged[name]

    def flush(self) -> None:
        """Send what is buffered, as before a checkpoint."""
        with store(self.tracker.uri, f"log metrics of run '{self.id}'"):
            for metrics in _chunks(self._metrics, 1000):
                self.tracker.client.log_batch(self.id, metrics=metrics)
            self._metrics.clear()
            for key, value in self._tags.items():
                self.tracker.client.set_tag(self.id, key, value)
            self._tags.clear()
        self._flushed = time.monotonic()

    def json(self, path: str, value: Any) -> None:
        """Store ``value``, masked, as a JSON artefact at ``path`` within the run."""
        self._write(path, json.dumps(masked(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    def text(self, path: str, text: str) -> None:
        """Store ``text``, masked, as an artefact at ``path`` within the run."""
        self._write(path, masked_text(text))

    def _write(self, path: str, text: str) -> None:
        with store(self.tracker.uri, f"log artefact '{path}' of run '{self.id}'"):
            self.tracker.client.log_text(self.id, text, path)

    def file(self, local: Path, folder: str | None = None) -> None:
        """Store a local file as it is, in ``folder`` within the run."""
        with store(self.tracker.uri, f"log file '{local}' of run '{self.id}'"):
            self.tracker.client.log_artifact(self.id, str(local), folder)

    def finish(self, status: Status = "FINISHED") -> None:
        """Send what is buffered and close the run; a closed run can be resumed."""
        self.flush()
        with store(self.tracker.uri, f"finish run '{self.id}'"):
            self.tracker.client.set_terminated(self.id, status)


def _cut(value: str, limit: int) -> str:
    return value if len(value) <= limit else value[: limit - 1] + "…"


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[at : at + size] for at in range(0, len(items), size))


def _relative(path: Path) -> str:
    """``path`` as seen from the current folder where it lies below it."""
    here = Path.cwd()
    return (path.relative_to(here) if path.is_relative_to(here) else path).as_posix()
