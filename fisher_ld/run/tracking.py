"""MLflow: one parent run an experiment, in it a nested run for each cell of a stage that has something to log, all in
the one store of the original repository.

Every cell is a process of its own, so the parent is found by a tag. Files hold what comes out of a run; the store
mirrors them, and nothing is fetched back from it to be sent again. A cell's run.json, an output of it, names the
nested run behind its outputs, also where DVC skips the cell.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from fisher_ld.config.messages import flatten
from fisher_ld.config.params import Params, load_params
from fisher_ld.config.paths import METRICS, PARAMS
from fisher_ld.core import ranks
from fisher_ld.core.errors import UserError, is_disk_full
from fisher_ld.core.files import fingerprint, read_json, write_json
from fisher_ld.core.locks import Lock, work_root
from fisher_ld.core.progress import say
from fisher_ld.run.dependencies import modules

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT, STAGE, PARENT = "fisher_ld.experiment", "fisher_ld.stage", "mlflow.parentRunId"
COMPLETE = "fisher_ld.complete"  # tag of a parent that has its report
FLUSH_SECONDS = 10.0  # writes are slow one by one
METRICS_AT_ONCE = 1000  # MLflow's limit of log_batch
QUIET = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits 248 s for a dead server
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # errors are told here, without its tracebacks
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}
REMEDY = "Set tracking.uri or MLFLOW_TRACKING_URI to sqlite:///FILE, or to http://HOST:PORT of a server that runs."


def store_uri(uri: str | None) -> str:
    """`uri`, else $MLFLOW_TRACKING_URI, else sqlite in the original repository, which `dvc exp run --temp` and
    `--queue` share. A relative sqlite path is taken from there as well. Raises UserError for a folder of files, which
    MLflow gave up, and for what is no address."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    if "://" not in uri or uri.startswith("file:"):
        raise UserError(f"MLflow store {uri}: expected sqlite or a server. {REMEDY}")
    relative = re.fullmatch("sqlite:///([^/].*)", uri)
    if not relative:
        return uri
    root = str(work_root().absolute()).replace("%", "%25").replace("?", "%3F")
    return f"sqlite:///{root}/{relative[1]}"


def _shown(text: str) -> str:
    """Without the passwords of addresses in it."""
    return re.sub(r"://[^/@\s]+@", "://***@", text)


def _lock(store: str) -> Lock:
    """Of several processes that create a fresh sqlite store at once, most crash, and two must not create one parent.
    It lies beside the file, which several repositories may share."""
    if found := re.fullmatch(r"sqlite:///([^?]+)(\?.*)?", store):
        return Lock(f"{unquote(found[1])}.lock")
    return Lock(work_root() / "work" / "mlflow.lock")


def check_shared(uri: str | None) -> None:
    """Raises UserError for a store that processes on several machines cannot write to."""
    store = store_uri(uri)
    if store.startswith("sqlite"):
        raise UserError(
            f"MLflow store {store} is a file, and with cluster.launcher slurm cells run on several machines. Start a "
            "server on a machine that all nodes reach (make server), and set tracking.uri to http://HOST:5000"
        )


def metric_name(key: str) -> str:
    """MLflow refuses some characters: ndcg@10 becomes ndcg_at_10."""
    return re.sub("[^A-Za-z0-9_. :/-]", "_", key.replace("@", "_at_"))


def experiment_params(params: Params) -> dict[str, Any]:
    """All but cluster and tracking, and of the catalogues what the run names."""
    values = params.model_dump(mode="json", exclude={"cluster", "tracking"})
    for catalogue, names in (("data_sets", params.run.data), ("students", params.run.students)):
        values[catalogue] = {name: values[catalogue][name] for name in names}
    return values


def experiment_key(params: Params) -> str:
    """What makes two cells parts of one experiment: its params, the name that DVC gave it, and the commit it started
    from."""
    parts = {"params": experiment_params(params), "name": os.environ.get("DVC_EXP_NAME"), "commit": _commit()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _commit() -> str:
    if commit := os.environ.get("DVC_EXP_BASELINE_REV"):
        return commit
    command = ["git", "-C", str(work_root()), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""


def _note(params: Params) -> str:
    """What a run is, in one line for its page in the UI."""
    parts = params.run.model_dump(include={"data", "students", "methods", "seeds"})
    return "; ".join(f"{name}: {', '.join(map(str, values))}" for name, values in parts.items())


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


class StageRun:
    """What a cell of a stage tells of itself, as a context manager: `folder`/run.json where it ends well, and a nested
    run in MLflow as soon as it logs something, FINISHED at the end, FAILED on an error, KILLED when stopped. A stage
    that logs nothing never imports MLflow. A cell that resumes after a kill has a new run, into which training logs
    again what its checkpoint holds: of the killed run the last points may be missing, others past the checkpoint.
    `cell`: STAGE@NAMES; `declared`: the stage's params, dotted.

    A store that cannot be opened raises UserError. Once open, one that takes no metrics or artifacts, or does not
    close the run, is reported and does not stop the stage. Metrics are kept and sent again, until the run ends.
    """

    client: MlflowClient
    experiment_id: str
    parent_id: str

    def __init__(self, cell: str, folder: Path, params: Params, declared: Mapping[str, Any]):
        self.cell, self.folder, self.params, self.declared = cell, folder, params, declared
        self.stage, _, name = cell.partition("@")
        self.name = name or "run"
        self.uri, self.started = store_uri(params.tracking.uri), time.monotonic()
        self.run_id = ""  # none yet
        self.buffer: list[Metric] = []
        self.last_flush, self.kept, self.monitor = time.monotonic(), False, None

    @cached_property
    def code(self) -> dict[str, str]:
        """Fingerprints of the modules that the stage runs, which belong in a checkpoint's key."""
        return fingerprint(modules(Path("stages") / f"{self.stage}.py"))

    def open(self) -> None:
        """Creates the nested run, unless it is there, and what it stands in: store, experiment, parent. Raises
        UserError if the store cannot be had."""
        if self.run_id or not ranks.leader():
            return
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        logging.getLogger("alembic").setLevel(logging.WARNING)
        logging.getLogger("mlflow").setLevel(logging.CRITICAL)  # where it is imported already

        place = flatten(self.params.model_dump(mode="json", include={"cluster"}))
        tags = {name: _text(value) for name, value in place.items()}
        tags |= {"mlflow.user": os.environ.get("USER") or str(os.getuid()), "mlflow.source.git.commit": _commit()}
        lock = _lock(self.uri)
        lock.take(wait=True)
        try:
            self.experiment_id = self._experiment(self.params.tracking.experiment)
            self.parent_id = self._parent(tags)
            self.run_id = self._nested(tags)
            self._send_params(self.run_id, self.declared)
        except Exception as error:  # MLflow's, SQLAlchemy's, alembic's, of a driver that is not installed
            if isinstance(error, UserError) or is_disk_full(error):
                raise
            raise UserError(_shown(f"MLflow store {self.uri} cannot be opened ({_reason(error)}). {REMEDY}")) from error
        finally:
            lock.release()
        if self.params.tracking.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self.uri)
            self.monitor.start()

    def _experiment(self, name: str) -> str:
        from mlflow import MlflowClient

        self.client = MlflowClient(self.uri)
        found = self.client.get_experiment_by_name(name)
        if found is None:
            local = not self.uri.startswith("http")
            artifacts = (work_root().absolute() / "mlruns").as_uri() if local else None
            return self.client.create_experiment(name, artifact_location=artifacts)
        if found.lifecycle_stage == "deleted":
            raise UserError(f"MLflow: {name!r} is deleted in {self.uri}; restore it or set tracking.experiment")
        return found.experiment_id

    def _search(self, **tags: str) -> list[Run]:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"]))

    def _parent(self, tags: dict[str, str]) -> str:
        key = experiment_key(self.params)
        # one that has its report is done: the same params again are a new experiment
        run = next((run for run in self._search(**{EXPERIMENT: key}) if COMPLETE not in run.data.tags), None)
        if run is None:
            name = os.environ.get("DVC_EXP_NAME") or f"repro-{key[:6]}"
            tags = {**tags, EXPERIMENT: key, "mlflow.note.content": _note(self.params)}
            run = self.client.create_run(self.experiment_id, tags=tags, run_name=name)
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        self._send_params(run.info.run_id, flatten(experiment_params(self.params)))
        return run.info.run_id

    def _nested(self, tags: dict[str, str]) -> str:
        for run in self._search(**{PARENT: self.parent_id, STAGE: self.cell}):
            if run.info.status == "RUNNING":  # killed before it could say so
                self.client.set_terminated(run.info.run_id, "KILLED")
        module = f"stages.{self.stage}"
        tags = {**tags, PARENT: self.parent_id, STAGE: self.cell, "mlflow.source.name": module}
        return self.client.create_run(self.experiment_id, tags=tags, run_name=self.cell).info.run_id

    def _send_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(metric_name(name), _text(value)) for name, value in values.items()]
        self.client.log_batch(run_id, params=params)  # in MLflow's own batches

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers, nested ones as dotted keys. Buffered; sent when enough have come or FLUSH_SECONDS have passed."""
        if not ranks.leader():
            return
        self.open()
        self.buffer += _points(flatten(values), step or 0)
        full = len(self.buffer) >= METRICS_AT_ONCE and not self.kept  # a store that is away is not asked at every step
        if full or time.monotonic() - self.last_flush > FLUSH_SECONDS:
            self.flush()

    def flush(self, last: bool = False) -> None:
        self.last_flush = time.monotonic()
        with self.reported(f"{len(self.buffer)} values {'are lost' if last else 'wait and are sent again'}"):
            while self.buffer:
                self.client.log_batch(self.run_id, metrics=self.buffer[:METRICS_AT_ONCE])
                del self.buffer[:METRICS_AT_ONCE]
        self.kept = bool(self.buffer)

    @contextmanager
    def reported(self, loss: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            say(_shown(f"MLflow store {self.uri}: {loss} ({_reason(error)})"))

    def complete_parent(self, summary: Mapping[str, Any], artifacts: Sequence[Path]) -> None:
        """Makes the parent tell the whole experiment: the numbers of `summary`, nested ones as ndcg_10/fisher-ld, the
        `artifacts`, and for each cell that logged, in this experiment or an earlier one, a tag run.STAGE.CELL that
        names its run. A parent that is complete is no other experiment's."""
        from mlflow.entities import RunTag

        self.open()
        for path in artifacts:
            with self.reported(f"{path} is not stored"):
                if path.is_dir():
                    self.client.log_artifacts(self.parent_id, str(path), path.name)
                else:
                    self.client.log_artifact(self.parent_id, str(path))
        records = [read_json(file) for file in sorted(METRICS.glob("cells/**/run.json"))]
        tags = [RunTag(f"run.{r['stage']}.{r['cell']}", r["run_id"]) for r in records if r["run_id"]]
        with self.reported(f"the parent run {self.parent_id} is not complete"):
            self.client.log_batch(self.parent_id, metrics=_points(flatten(summary, separator="/"), 0))
            self.client.log_batch(self.parent_id, tags=[*tags, RunTag(COMPLETE, "true")])

    def __enter__(self) -> StageRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
        cost = {"seconds": time.monotonic() - self.started, "peak_memory_mib": peak}
        if self.run_id:
            self.log_metrics(cost)
            self.flush(last=True)
            if self.monitor is not None:
                self.monitor.finish()
            status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
            with self.reported(f"run {self.run_id} is not closed"):
                for run in (self.run_id, self.parent_id):  # no later stage may come to close the parent
                    self.client.set_terminated(run, status)
        if kind is None and ranks.leader():
            record = {"stage": self.stage, "cell": self.name, "run_id": self.run_id or None, **cost}
            write_json(self.folder / "run.json", record)


def _reason(error: BaseException) -> str:
    """One line: of what an error was raised from, without SQL and the like."""
    if error.__cause__:
        return _reason(error.__cause__)
    return next((line[:300] for line in str(error).splitlines() if line), type(error).__name__)


def _points(values: Mapping[str, Any], step: int) -> list[Metric]:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(metric_name(key), float(value), now, step) for key, value in values.items()]


if __name__ == "__main__":  # for `make ui`
    try:
        print(store_uri(load_params(PARAMS, {}).tracking.uri))
    except UserError as error:
        sys.exit(str(error))
