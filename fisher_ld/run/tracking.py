"""MLflow: one parent run an experiment, a nested run a stage, all in the one store of the original repository.

Every stage is a process of its own, so the parent is found by a tag. A stage that DVC skips logs nothing; the run
file it once wrote (metrics/runs/STAGE.json, an output of the stage) leads to the run that produced its outputs, and
the last stage copies all of them to the parent.
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fisher_ld.config.messages import flatten
from fisher_ld.config.params import Params, load_params
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.core.locks import Lock, work_root

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

EXPERIMENT, STAGE, PARENT = "fisher_ld.experiment", "fisher_ld.stage", "mlflow.parentRunId"
COMPLETE = "fisher_ld.complete"  # tag of a parent that has its report
COST = ("seconds", "peak_memory_mib")  # of a stage, which say nothing about an experiment
FLUSH_SECONDS = 10.0  # writes are slow one by one
METRICS_AT_ONCE, PARAMS_AT_ONCE = 1000, 100  # MLflow's limits of log_batch
T = TypeVar("T")


def store_uri(uri: str | None) -> str:
    """`uri`, else $MLFLOW_TRACKING_URI, else sqlite in the original repository, which `dvc exp run --temp` and
    `--queue` share. A relative sqlite path is taken from there as well."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    relative = re.fullmatch("sqlite:///([^/].*)", uri)
    return f"sqlite:///{work_root().absolute() / relative[1]}" if relative else uri


def metric_name(key: str) -> str:
    """MLflow refuses some characters: ndcg@10 becomes ndcg_at_10."""
    return re.sub("[^A-Za-z0-9_. :/-]", "_", key.replace("@", "_at_"))


def experiment_key(params: Params) -> str:
    """What makes two stages parts of one experiment: all params but cluster and tracking, the name that DVC gave it,
    and the commit it started from."""
    parts = {"params": params.model_dump(mode="json", exclude={"cluster", "tracking"})}
    parts |= {"name": os.environ.get("DVC_EXP_NAME"), "commit": _commit()}
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _commit() -> str:
    if commit := os.environ.get("DVC_EXP_BASELINE_REV"):
        return commit
    command = ["git", "-C", str(work_root()), "rev-parse", "--verify", "--quiet", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:  # no git on this machine
        return ""


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _chunks(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    return (items[i : i + size] for i in range(0, len(items), size))


@contextmanager
def _store_lock() -> Iterator[None]:
    """Of several processes that create a fresh sqlite store at once, most crash; two must not create one parent."""
    lock = Lock(work_root() / "work" / "mlflow.lock")
    lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()


def connect(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Opens the store, creates it and the experiment if they are new. Returns the client and the experiment's id;
    raises UserError if the store cannot be had. Call under the store's lock."""
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # the default waits 248 s for a dead server
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
    }.items():
        os.environ.setdefault(name, value)
    logging.getLogger("alembic").setLevel(logging.WARNING)
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    try:
        client = MlflowClient(uri)
        found = client.get_experiment_by_name(experiment)
        if found is None:
            local = not uri.startswith("http")
            artifacts = (work_root().absolute() / "mlruns").as_uri() if local else None
            return client, client.create_experiment(experiment, artifact_location=artifacts)
    except (MlflowException, OSError) as error:
        text = str(error).splitlines()[0][:300]
        raise UserError(
            f"MLflow store {uri} cannot be opened ({text}). Start that server, or set tracking.uri or "
            "MLFLOW_TRACKING_URI to sqlite:///FILE or http://HOST:PORT."
        ) from error
    if found.lifecycle_stage == "deleted":
        raise UserError(f"MLflow experiment {experiment!r} is deleted in {uri}; restore it or set tracking.experiment")
    return client, found.experiment_id


class StageRun:
    """The nested run of one stage, as a context manager: FINISHED at the end, FAILED on an error, KILLED when
    stopped. A stage that resumes after a kill has a new run, into which `training.fit` logs again what its checkpoint
    holds: of the killed run the last points may be missing, others past the checkpoint. `declared`: the stage's own
    params, dotted.

    Once started, a store that takes no metrics or artifacts, or does not close the run, is reported and does not stop
    the stage. Metrics are kept and sent again, until the run ends.
    """

    def __init__(self, stage: str, params: Params, declared: Mapping[str, Any]):
        self.stage, self.started = stage, time.time()
        self.uri = store_uri(params.tracking.uri)
        self.buffer: list[Metric] = []
        self.last_flush = time.monotonic()
        self.monitor: Any = None
        place = flatten(params.model_dump(mode="json", include={"cluster"}))
        tags = {name: _text(value) for name, value in place.items()}
        tags |= {"mlflow.user": os.environ.get("USER") or str(os.getuid()), "mlflow.source.git.commit": _commit()}
        with _store_lock():
            self.client, self.experiment_id = connect(self.uri, params.tracking.experiment)
            self.parent_id = self._parent(params, tags)
            self.run_id = self._nested(tags)
        self.log_params(declared)
        if params.tracking.system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            self.monitor = SystemMetricsMonitor(self.run_id, tracking_uri=self.uri)
            self.monitor.start()

    def _search(self, **tags: str) -> list[Run]:
        query = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
        return list(self.client.search_runs([self.experiment_id], query, order_by=["attributes.start_time DESC"]))

    def _parent(self, params: Params, tags: dict[str, str]) -> str:
        key = experiment_key(params)
        # one that has its report is done: the same params again are a new experiment
        run = next((run for run in self._search(**{EXPERIMENT: key}) if COMPLETE not in run.data.tags), None)
        if run is None:
            name = os.environ.get("DVC_EXP_NAME") or f"repro-{key[:6]}"
            run = self.client.create_run(self.experiment_id, tags={**tags, EXPERIMENT: key}, run_name=name)
        else:
            self.client.update_run(run.info.run_id, status="RUNNING")
        self._send_params(run.info.run_id, flatten(params.model_dump(mode="json", exclude={"cluster", "tracking"})))
        return run.info.run_id

    def _nested(self, tags: dict[str, str]) -> str:
        for run in self._search(**{PARENT: self.parent_id, STAGE: self.stage}):
            if run.info.status == "RUNNING":  # killed before it could say so
                self.client.set_terminated(run.info.run_id, "KILLED")
        tags = {**tags, PARENT: self.parent_id, STAGE: self.stage, "mlflow.source.name": f"stages.{self.stage}"}
        return self.client.create_run(self.experiment_id, tags=tags, run_name=self.stage).info.run_id

    def _send_params(self, run_id: str, values: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        params = [Param(metric_name(name), _text(value)) for name, value in values.items()]
        for chunk in _chunks(params, PARAMS_AT_ONCE):
            self.client.log_batch(run_id, params=chunk)

    def log_params(self, values: Mapping[str, Any]) -> None:
        """Facts of this run, nested ones as dotted keys. MLflow refuses a second value for a name."""
        self._send_params(self.run_id, flatten(values))

    def log_metrics(self, values: Mapping[str, Any], step: int | None = None) -> None:
        """Numbers, nested ones as dotted keys. Buffered; sent when enough have come or FLUSH_SECONDS have passed."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.buffer += [Metric(metric_name(k), float(v), now, step or 0) for k, v in flatten(values).items()]
        if len(self.buffer) >= METRICS_AT_ONCE or time.monotonic() - self.last_flush > FLUSH_SECONDS:
            self.flush()

    def flush(self, last: bool = False) -> None:
        self.last_flush = time.monotonic()
        with self._reported(f"{len(self.buffer)} values {'are lost' if last else 'wait and are sent again'}"):
            while self.buffer:
                self.client.log_batch(self.run_id, metrics=self.buffer[:METRICS_AT_ONCE])
                del self.buffer[:METRICS_AT_ONCE]

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file, or a folder with all it holds."""
        with self._reported(f"{path} is not stored"):
            _log_artifact(self.client, self.run_id, path, folder)

    @contextmanager
    def _reported(self, loss: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException

        try:
            yield
        except (MlflowException, OSError) as error:
            print(f"MLflow store {self.uri}: {loss} ({error})", file=sys.stderr, flush=True)

    def complete_parent(
        self, run_files: Iterable[str | Path], metrics: Mapping[str, Any], artifacts: Iterable[str | Path]
    ) -> None:
        """Makes the parent tell the whole experiment, stages that DVC skipped included: curves and facts of the run
        behind each run file as STAGE/NAME, a tag run.STAGE naming it, the final `metrics`, the `artifacts`. A run
        that is no longer in the store is named in the tag and left out."""
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        own = self.client.get_run(self.parent_id).data.params
        for file in run_files:
            record = read_json(file)
            stage, run_id = record["stage"], record["run_id"]
            prefix = stage.replace("@", "/")
            try:
                source = self.client.get_run(run_id)
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                print(f"MLflow: the run of {stage}, {run_id}, is not in {self.uri}: left out", file=sys.stderr)
                self.client.set_tag(self.parent_id, f"run.{metric_name(stage)}", f"{run_id} (not in this store)")
                continue
            self.client.set_tag(self.parent_id, f"run.{metric_name(stage)}", run_id)
            facts = {f"{prefix}/{k}": v for k, v in source.data.params.items() if k not in own}
            self._send_params(self.parent_id, facts)
            points = [
                Metric(f"{prefix}/{key}", point.value, point.timestamp, point.step)
                for key in source.data.metrics
                if not key.startswith("system/") and key not in COST
                for point in self.client.get_metric_history(run_id, key)
            ]
            for chunk in _chunks(points, METRICS_AT_ONCE):
                self.client.log_batch(self.parent_id, metrics=chunk)
        now = int(time.time() * 1000)
        final = [Metric(metric_name(k), float(v), now, 0) for k, v in flatten(metrics).items()]
        for chunk in _chunks(final, METRICS_AT_ONCE):
            self.client.log_batch(self.parent_id, metrics=chunk)
        for path in artifacts:
            _log_artifact(self.client, self.parent_id, path, None)
        self.client.set_tag(self.parent_id, COMPLETE, "true")

    def write_run_file(self) -> None:
        """metrics/runs/STAGE.json (of distill@METHOD distill/METHOD.json), from which `complete_parent` finds this run
        when DVC skips the stage."""
        write_json(f"metrics/runs/{self.stage.replace('@', '/')}.json", {"stage": self.stage, "run_id": self.run_id})

    def __enter__(self) -> StageRun:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
        self.log_metrics(dict(zip(COST, (time.time() - self.started, peak), strict=True)))
        self.flush(last=True)
        if self.monitor is not None:
            self.monitor.finish()
        status = "FINISHED"
        if kind is not None:
            status = "FAILED" if issubclass(kind, Exception) else "KILLED"
        with self._reported(f"run {self.run_id} is not closed"):
            for run in (self.run_id, self.parent_id):  # no later stage may come to close the parent
                self.client.set_terminated(run, status)


def _log_artifact(client: MlflowClient, run_id: str, path: str | Path, folder: str | None) -> None:
    path = Path(path)
    if path.is_dir():
        client.log_artifacts(run_id, str(path), folder or path.name)
    elif path.is_file():
        client.log_artifact(run_id, str(path), folder)
    else:
        raise UserError(
            f"{path}: no such file, it should have gone to MLflow; run the stage that writes it (dvc repro)"
        )


if __name__ == "__main__":  # for `make ui`
    try:
        print(store_uri(load_params("params.yaml").tracking.uri))
    except UserError as error:
        sys.exit(str(error))
