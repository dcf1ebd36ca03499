"""The real pipeline under DVC and MLflow, on real data and the first layers of the real teacher."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from mlflow.tracking import MlflowClient
from ruamel.yaml import YAML
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from fisher_ld.downloads import fetch_teacher
from fisher_ld.params import TeacherSource

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
SMALL = {
    "methods": ["truncated", "none", "uniform", "fisher-shuffled", "fisher-ld"],
    "data": {"max_users": 24, "train_positives": 2},
    "teacher": {
        "adapt": {
            "first_layers": 2,
            "item_steps": 4,
            "first_steps": 6,
            "steps": 12,
            "eval_every": 6,
            "checkpoint_every": 3,
            "val_users": 8,
        }
    },
    "fisher": {"samples": 8, "update_interval": 2},
    "student": {"layers": 2},
    "distill": {"seeds": 2, "steps": 12, "eval_every": 6, "checkpoint_every": 3, "val_users": 8},
    "evaluate": {"bootstrap_samples": 200, "uniform_users": 10, "zero_shot_users": 8, "latency_queries": 2},
    "tracking": {"system_metrics": False},
}
BETA_STUDENTS = {"fisher-shuffled", "fisher-ld"}
AFTER_BETA = {"layer_weights", "evaluate", "ablations", "report", *(f"distill@{name}" for name in BETA_STUDENTS)}


def environment(**more: str) -> dict[str, str]:
    own = {k: v for k, v in os.environ.items() if not k.startswith(("DVC_", "MLFLOW_"))}
    git = {"GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@localhost"}
    git |= {k.replace("AUTHOR", "COMMITTER"): v for k, v in git.items()}
    return {**own, **git, "PATH": f"{Path(sys.executable).parent}:{own['PATH']}", "PYTHONPATH": "", **more}


def run(project: Path, *command: str) -> str:
    done = subprocess.run(command, cwd=project, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout + done.stderr


def stages_run(output: str) -> set[str]:
    """But for the check of params.yaml, which runs whenever that file changes."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage '")} - {"check_params"}


def merge(tree: dict, changes: dict) -> None:
    for key, value in changes.items():
        if isinstance(value, dict):
            merge(tree[key], value)
        else:
            tree[key] = value


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """The working tree as a repository of its own, after one `dvc repro`."""
    base = tmp_path_factory.mktemp("end-to-end")
    fetch_teacher(TeacherSource(), base / "whole", base / "store", base / "lock.json")
    teacher = AutoModelForCausalLM.from_pretrained(base / "whole", dtype=torch.float32)
    teacher.model.layers = teacher.model.layers[:4]
    teacher.config.num_hidden_layers = 4
    teacher.save_pretrained(base / "teacher")
    AutoTokenizer.from_pretrained(base / "whole").save_pretrained(base / "teacher")

    project = base / "project"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in files:
        if (ROOT / file).is_file() and file != "dvc.lock":
            (project / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, project / file)
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    merge(params, SMALL)
    merge(params, {"teacher": {"source": {"kind": "local", "name": str(base / "teacher")}}})
    yaml.dump(params, project / "params.yaml")
    run(project, "git", "init", "-q")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "start")
    run(project, "dvc", "repro")
    run(project, "git", "add", "-A")
    run(project, "git", "commit", "-qm", "run")
    return project


def parents(project: Path) -> list:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (experiment,) = [e for e in client.search_experiments() if e.name == "fisher-ld"]
    runs = client.search_runs([experiment.experiment_id], max_results=500)
    return [r for r in runs if "mlflow.parentRunId" not in r.data.tags]


def children(project: Path, parent) -> set[str]:
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    query = f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    return {r.info.run_name for r in client.search_runs([parent.info.experiment_id], query)}


def test_the_parent_run_is_complete(project):
    (parent,) = parents(project)
    assert parent.info.status == "FINISHED"
    assert parent.data.params["fisher.beta"] == "0.3"
    assert "distill/fisher-ld/loss/seed_0" in parent.data.metrics
    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    assert "report.html" in {a.path for a in client.list_artifacts(parent.info.run_id)}


def test_a_second_repro_runs_nothing(project):
    assert not stages_run(run(project, "dvc", "repro"))


def test_where_it_runs_changes_nothing(project):
    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    params["cluster"]["threads"] = 1
    params["tracking"]["experiment"] = "elsewhere"
    yaml.dump(params, project / "params.yaml")
    assert not stages_run(run(project, "dvc", "repro"))
    run(project, "git", "checkout", "params.yaml")


def test_beta_runs_only_what_it_changes(project):
    uniform = (project / "data/students/uniform/0/model.safetensors").stat().st_ino
    output = run(project, "dvc", "exp", "run", "-S", "fisher.beta=2.0")
    assert stages_run(output) == AFTER_BETA
    assert (project / "data/students/uniform/0/model.safetensors").stat().st_ino == uniform
    assert {p.data.params["fisher.beta"] for p in parents(project)} == {"0.3", "2.0"}


def test_a_temporary_experiment_lands_in_the_same_store(project):
    before = len(parents(project))
    run(project, "dvc", "exp", "run", "--temp", "-S", "fisher.beta=0.7")
    found = parents(project)
    assert len(found) == before + 1
    (new,) = [p for p in found if p.data.params["fisher.beta"] == "0.7"]
    assert new.info.status == "FINISHED"


def test_two_queue_workers_write_to_the_same_store(project):
    """A change of an evaluation parameter, so that no model is trained or run again but to be timed."""
    draws = {"150", "250"}
    for count in draws:
        run(project, "dvc", "exp", "run", "--queue", "-S", f"evaluate.bootstrap_samples={count}")
    # without pipes, which the workers would hold open until they end
    start(project, "dvc", "queue", "start", "-j", "2", OMP_NUM_THREADS="1").wait()
    deadline = time.monotonic() + 300
    while {"Queued", "Running"} & set((status := run(project, "dvc", "queue", "status")).split()):
        assert time.monotonic() < deadline, status
        time.sleep(2)
    assert status.count("Success") == 2, status
    found = [p for p in parents(project) if p.data.params["evaluate.bootstrap_samples"] in draws]
    assert len(found) == 2
    for parent in found:
        assert parent.info.status == "FINISHED"
        assert "distill/fisher-ld/loss/seed_0" in parent.data.metrics  # from the run that trained it
        assert children(project, parent) == {"evaluate", "ablations", "report"}
    a, b = (parent.info for parent in found)
    assert a.start_time < b.end_time and b.start_time < a.end_time, "one worker ran both"


def start(project: Path, *command: str, **more: str) -> subprocess.Popen:
    silent = subprocess.DEVNULL
    return subprocess.Popen(command, cwd=project, env=environment(**more), stdout=silent, stderr=silent)


def kill_when(process: subprocess.Popen, reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not reached():
        assert process.poll() is None and time.monotonic() < deadline, "ended too early, or never got there"
        time.sleep(0.02)
    process.kill()
    process.wait()


def test_a_killed_cache_goes_on_to_the_same_signals(project):
    """Equal to the bit: a resumed run has the batches of an uninterrupted one."""
    folder = project / "data/cache"
    files = sorted(file.name for file in folder.glob("*.npy"))
    expected = {name: np.load(folder / name) for name in files}
    command = [sys.executable, "-m", "stages.cache_teacher"]

    def half_done() -> bool:  # the manifest is written once the arrays are there
        manifests = (project / "work/cache_teacher").rglob("manifest.json")
        return any(np.load(manifest.with_name("done.npy")).any() for manifest in manifests)

    kill_when(start(project, *command), half_done)
    (done,) = (project / "work/cache_teacher").rglob("done.npy")
    assert not np.load(done).all()
    begun = done.with_name("hidden-00000.npy").stat().st_ino
    run(project, *command)
    assert (folder / "hidden-00000.npy").stat().st_ino == begun
    assert sorted(file.name for file in folder.glob("*.npy")) == files
    for name, value in expected.items():
        np.testing.assert_array_equal(np.load(folder / name), value)


@pytest.mark.parametrize(
    "stage, arguments, part, result",
    [
        ("adapt_teacher", [], 1, "data/teacher/adapted/model.safetensors"),
        ("adapt_teacher", [], 3, "data/teacher/adapted/model.safetensors"),
        ("distill", ["fisher-ld"], 2, "data/students/fisher-ld/1/model.safetensors"),
    ],
)
def test_goes_on_after_kill(project, stage, arguments, part, result):
    """While the teacher learns items, in its last part, or in a method's second student, to the weights of the
    uninterrupted run: equal to 1e-6, as float32 sums may differ in the last bit."""
    expected = load_file(project / result)
    command = [sys.executable, "-m", f"stages.{stage}", *arguments]

    def begun() -> bool:
        return len({state.parents[1] for state in (project / "work" / stage).rglob("step-*/state.json")}) == part

    kill_when(start(project, *command), begun)
    assert "resuming from" in run(project, *command)
    for name, value in load_file(project / result).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-6)
