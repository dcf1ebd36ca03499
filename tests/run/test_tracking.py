import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from fisher_ld.config.paths import cell
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.run import tracking
from fisher_ld.run.tracking import EXPERIMENT, STAGE, StageRun, check_shared, experiment_key, metric_name, store_uri
from tests.given import ROOT, given

UNWATCHED = {"tracking": {"system_metrics": False}}
FIRST = """
import sys
from tests.run.test_tracking import stage_run
with stage_run(sys.argv[1]) as run:
    run.log_metrics({"loss": 1.0}, step=0)
    print(run.parent_id, run.run_id, flush=True)
"""


def environment(root, **more):
    env = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "DVC_"))}
    return {**env, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "DVC_ROOT": str(root), **more}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A repository's folder whose MLflow store two stages created at once; what they printed."""
    root = tmp_path_factory.mktemp("repository")
    env = environment(root, DVC_EXP_NAME="both", DVC_EXP_BASELINE_REV="c0ffee")
    processes = [
        subprocess.Popen([sys.executable, "-c", FIRST, stage], cwd=root, env=env, stdout=subprocess.PIPE, text=True)
        for stage in ("preprocess", "distill")
    ]
    printed = [process.communicate()[0].split() for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    return root, printed


@pytest.fixture
def root(store, monkeypatch, tmp_path):
    """The store's repository for this process, which works in a folder of its own as `dvc exp run --temp` does."""
    for name in os.environ:
        if name.startswith(("MLFLOW_", "DVC_")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("DVC_ROOT", str(store[0]))
    monkeypatch.setenv("DVC_EXP_NAME", tmp_path.name)
    monkeypatch.chdir(tmp_path)
    return store[0]


PARAMS = given(UNWATCHED)


def stage_run(name, params=PARAMS, declared=None):
    """The run of a cell STAGE@NAMES."""
    stage, _, names = name.partition("@")
    return StageRun(name, cell(stage, *filter(None, [names])), params, declared or {})


@contextmanager
def opened(name, params=PARAMS, declared=None):
    with stage_run(name, params, declared) as run:
        run.open()
        yield run


def history(run, run_id, key):
    return [(point.step, point.value) for point in run.client.get_metric_history(run_id, key)]


def test_two_processes_create_one_store_and_one_parent(store, root):
    (parent, first), (same_parent, second) = store[1]
    assert parent == same_parent and first != second
    with opened("look") as run:
        found = run.client.get_run(first)
        assert found.data.tags["mlflow.parentRunId"] == parent and found.info.status == "FINISHED"
        assert history(run, second, "loss") == [(0, 1.0)]
        assert str(found.info.artifact_uri).startswith((root / "mlruns").as_uri())
        parent_run = run.client.get_run(parent)
        assert parent_run.info.run_name == "both"
        assert parent_run.data.tags["mlflow.source.git.commit"] == "c0ffee"
        assert parent_run.data.params["fisher.beta"] == "0.3"
        assert parent_run.data.params["data_sets.movielens-100k.prompt.history"] == "{text}\n"
        assert len(parent_run.data.params) > 60
        assert not any(name.startswith(("cluster", "tracking")) for name in parent_run.data.params)
    assert (root / "mlflow.db").is_file() and not Path("mlflow.db").exists()


def test_stages_of_one_experiment_share_a_parent_until_it_is_complete(root):
    def status(run):
        return run.client.get_run(run.parent_id).info.status

    with opened("a") as first:
        assert status(first) == "RUNNING"
    assert status(first) == "FINISHED"
    with opened("b", given({**UNWATCHED, "cluster": {"threads": 1}})) as second:
        assert second.parent_id == first.parent_id
        assert status(second) == "RUNNING"
        second.complete_parent({}, [])
    assert status(first) == "FINISHED"
    with opened("a") as again:
        assert again.parent_id != first.parent_id
    other = given({**UNWATCHED, "fisher": {"beta": 0.1}})
    with opened("a", other) as changed:
        assert changed.parent_id not in (first.parent_id, again.parent_id)


def test_experiment_key(monkeypatch):
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "a")
    key = experiment_key(given())
    assert experiment_key(given({"cluster": {"threads": 2}, "tracking": {"experiment": "x"}})) == key
    assert experiment_key(given({"seed": 1})) != key
    mine = {"students": {"mine": {"init": "first", "layers": 1, "vocabulary": "full"}}}
    assert experiment_key(given(mine)) == key  # an entry that the run does not name
    assert experiment_key(given({**mine, "run": {"students": ["small", "mine"]}})) != key
    monkeypatch.setenv("DVC_EXP_BASELINE_REV", "b")
    assert experiment_key(given()) != key


def test_metrics_are_sent_in_batches(root, monkeypatch):
    with opened("batches") as run:
        sent = []
        real = run.client.log_batch
        monkeypatch.setattr(run.client, "log_batch", lambda *a, **k: (sent.append(len(k["metrics"])), real(*a, **k)))
        for step in range(600):
            run.log_metrics({"loss": step / 10, "layers": {"weight@1": 0.5}}, step)
        assert sent == [1000]
    assert sent == [1000, 202]  # the rest, seconds and peak memory
    assert history(run, run.run_id, "loss")[-1] == (599, 59.9)
    assert len(history(run, run.run_id, "layers.weight_at_1")) == 600


def test_a_store_that_fails_does_not_stop_the_stage(root, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    def fail(*args, **options):
        raise MlflowException("database is locked")

    with opened("locked") as run:
        run.log_metrics({"loss": 1.0}, 3)
        with monkeypatch.context() as patch:
            patch.setattr(run.client, "log_batch", fail)
            run.flush()
        assert "1 values wait and are sent again (database is locked)" in capsys.readouterr().err
    assert history(run, run.run_id, "loss") == [(3, 1.0)]


def test_a_store_that_is_away_is_not_asked_at_every_step(root, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    asked = []

    def fail(*args, **options):
        asked.append(args)
        raise MlflowException("no server")

    with opened("away") as run:
        with monkeypatch.context() as patch:
            patch.setattr(run.client, "log_batch", fail)
            for step in range(tracking.METRICS_AT_ONCE + 50):
                run.log_metrics({"loss": 1.0}, step)
            assert len(asked) == 1
        run.flush()
        for step in range(tracking.METRICS_AT_ONCE):
            run.log_metrics({"other": 1.0}, step)
        assert not run.buffer
    assert len(history(run, run.run_id, "loss")) == tracking.METRICS_AT_ONCE + 50


def test_what_a_store_never_takes_is_said(root, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    def fail(*args, **options):
        raise MlflowException("no server")

    (root / "plot.png").write_bytes(b"png")
    with opened("alone") as run:
        run.log_metrics({"loss": 1.0}, 3)
        for call in ("log_batch", "log_artifact", "set_terminated"):
            monkeypatch.setattr(run.client, call, fail)
        run.complete_parent({}, [root / "plot.png"])
    said = capsys.readouterr().err
    assert "plot.png is not stored (no server)" in said and "values are lost (no server)" in said
    assert "is not closed (no server)" in said


@pytest.mark.parametrize(
    ("error", "status"),
    [(UserError("bad"), "FAILED"), (SystemExit(143), "KILLED"), (KeyboardInterrupt(), "KILLED")],
)
def test_status_of_a_stage_that_did_not_end(root, error, status):
    with pytest.raises(type(error)), opened("distill") as run:
        raise error
    assert run.client.get_run(run.run_id).info.status == status
    assert run.client.get_run(run.parent_id).info.status == status
    with opened("distill") as again:
        assert again.run_id != run.run_id and again.parent_id == run.parent_id
        assert again.client.get_run(run.parent_id).info.status == "RUNNING"


def test_a_run_that_could_not_say_that_it_was_killed_is_marked_by_the_next(root):
    killed = stage_run("distill")
    killed.open()
    assert killed.client.get_run(killed.run_id).info.status == "RUNNING"
    with opened("distill"):
        assert killed.client.get_run(killed.run_id).info.status == "KILLED"


def test_the_parent_mirrors_the_files_of_all_cells(root, tmp_path):
    """As after a beta change: the teacher was adapted in an earlier experiment, its stage is skipped in this one."""
    with stage_run("adapt_teacher@beauty-0", declared={"seed": 0}) as early:
        early.log_metrics({"loss": 0.9})
    params = given({**UNWATCHED, "fisher": {"beta": 0.1}})
    with stage_run("distill@beauty-small-fisher-ld-0", params, {"fisher.beta": 0.1}) as distill:
        for step in range(3):
            distill.log_metrics({"loss": 3.0 - step}, step)
    with stage_run("layer_weights@beauty-fisher-ld", params):
        pass
    write_json("metrics/cells/distill/gone/run.json", {"stage": "distill", "cell": "gone", "run_id": "0" * 32})
    (tmp_path / "report.html").write_text("<p>report")
    (tmp_path / "plots").mkdir()
    (tmp_path / "plots" / "a.json").write_text("{}")
    with stage_run("report", params) as run:
        summary = {"ndcg_10": {"fisher-ld": 0.4, "teacher": 0.5}, "kept": {"fisher-ld": 0.8}}
        run.complete_parent(summary, [Path("report.html"), Path("plots")])
    parent = run.client.get_run(run.parent_id)
    assert parent.info.status == "FINISHED" and distill.parent_id == run.parent_id != early.parent_id
    assert parent.data.metrics == {"ndcg_10/fisher-ld": 0.4, "ndcg_10/teacher": 0.5, "kept/fisher-ld": 0.8}
    assert parent.data.params["fisher.beta"] == "0.1" and "loss" not in parent.data.params
    assert {name: value for name, value in parent.data.tags.items() if name.startswith("run.")} == {
        "run.adapt_teacher.beauty-0": early.run_id,
        "run.distill.beauty-small-fisher-ld-0": distill.run_id,
        "run.distill.gone": "0" * 32,  # a store of which a run was deleted is not asked for it
    }
    assert sorted(file.path for file in run.client.list_artifacts(run.parent_id)) == ["plots", "report.html"]
    assert history(run, distill.run_id, "loss") == [(0, 3.0), (1, 2.0), (2, 1.0)]


def test_a_parent_that_the_store_does_not_take_costs_no_report(root, monkeypatch, capsys):
    from mlflow.exceptions import MlflowException

    def fail(*args, **options):
        raise MlflowException("no server")

    with opened("report") as run, monkeypatch.context() as patch:
        patch.setattr(run.client, "log_batch", fail)
        run.complete_parent({"ndcg_10": {"teacher": 0.5}}, [])
    assert f"the parent run {run.parent_id} is not complete (no server)" in capsys.readouterr().err
    assert "fisher_ld.complete" not in run.client.get_run(run.parent_id).data.tags


def test_the_parent_says_in_a_line_what_it_is(root):
    params = given({**UNWATCHED, "run": {"methods": ["none", "fisher-ld"], "seeds": [0, 1]}})
    with opened("report", params) as run:
        note = run.client.get_run(run.parent_id).data.tags["mlflow.note.content"]
    assert note == "data: movielens-100k; students: small; methods: none, fisher-ld; seeds: 0, 1"


QUIET_STAGE = """
import sys
from tests.run.test_tracking import stage_run
with stage_run("evaluate@beauty"):
    pass
assert not [name for name in sys.modules if name.split(".")[0] == "mlflow"]
"""


def test_a_stage_that_logs_nothing_imports_no_mlflow_and_leaves_its_run_file(root, tmp_path):
    subprocess.run([sys.executable, "-c", QUIET_STAGE], cwd=tmp_path, env=environment(tmp_path), check=True)
    record = read_json(tmp_path / "metrics/cells/evaluate/beauty/run.json")
    assert (record["stage"], record["cell"], record["run_id"]) == ("evaluate", "beauty", None)
    assert record["peak_memory_mib"] > 1 and record["seconds"] >= 0
    assert not (tmp_path / "mlflow.db").exists()


def test_only_a_stage_that_ends_well_leaves_its_run_file(root):
    with pytest.raises(UserError), stage_run("gate@beauty-small"):
        raise UserError("the teacher is no better")
    assert not Path("metrics/cells").exists()
    with opened("gate@beauty-small") as run:
        pass
    assert read_json("metrics/cells/gate/beauty-small/run.json")["run_id"] == run.run_id


def test_a_cell_of_several_names_is_recorded_by_its_stage_and_name(root):
    with stage_run("distill@beauty-small-none-0") as run:
        run.folder = cell("distill", "beauty", "small", "none", 0)  # as the stage lays it
    told = read_json(run.folder / "run.json")
    assert (told["stage"], told["cell"]) == ("distill", "beauty-small-none-0")


def test_code_is_that_of_the_stage(root, monkeypatch):
    monkeypatch.chdir(ROOT)
    code = stage_run("layer_weights@beauty-fisher-ld").code
    assert {"stages/layer_weights.py", "fisher_ld/distillation/methods.py"} <= set(code)
    assert not [name for name in code if name.startswith(("fisher_ld/report", "fisher_ld/run", "stages/report"))]


def test_system_metrics(root, monkeypatch):
    """Sampled by the monitor itself, and in the store while the stage still runs."""
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    cpu, memory = "system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"
    with opened("watched", given()) as run:
        deadline = time.monotonic() + 10
        while len(history(run, run.run_id, cpu)) < 2 and time.monotonic() < deadline:
            sum(range(10**6))  # something to see
        samples = history(run, run.run_id, cpu)
        assert len(samples) >= 2, "the monitor sent no two samples in 10 s"
        used = history(run, run.run_id, memory)
    assert [step for step, _ in samples] == list(range(len(samples)))
    assert all(0 <= value <= 100 for _, value in samples) and samples[1][1] > 0
    assert all(1 < value * 1e6 < psutil.virtual_memory().total for _, value in used)
    metrics = run.client.get_run(run.run_id).data.metrics
    assert metrics["peak_memory_mib"] > 1 and metrics["seconds"] > 0


STAGE_SCRIPT = """
import time
from fisher_ld.run.stage import stage
def main(params, run, method):
    run.log_metrics({"loss": params.fisher.beta}, step=1)
    print(run.run_id, flush=True)
    time.sleep(60)
__file__ = "stages/distill.py"
stage(main)
"""


def test_a_terminated_stage_is_marked_killed(root, tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages:\n  distill:\n    cmd: x\n    params: [fisher.beta]\n")
    write_json("params.yaml", PARAMS.model_dump(mode="json"))
    command = [sys.executable, "-c", STAGE_SCRIPT, "none"]
    process = subprocess.Popen(command, cwd=tmp_path, env=environment(root), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    run_id = process.stdout.readline().strip()
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143
    with opened("look") as run:
        killed = run.client.get_run(run_id)
        assert killed.info.status == "KILLED" and killed.data.tags[STAGE] == killed.info.run_name == "distill@none"
        assert killed.data.params == {"fisher.beta": "0.3"}
        assert history(run, run_id, "loss") == [(1, 0.3)]
        assert EXPERIMENT in run.client.get_run(killed.data.tags["mlflow.parentRunId"]).data.tags
    assert not (tmp_path / "metrics/cells/distill").exists()


def test_a_dead_server_is_a_clear_error(root):
    """And comes soon, with the first thing that a stage logs; one that logs nothing needs no server."""
    params = given({"tracking": {"uri": "http://127.0.0.1:9"}})
    start = time.monotonic()
    with (
        pytest.raises(UserError, match=r"MLflow store http://127\.0\.0\.1:9 cannot be opened"),
        stage_run("a", params) as run,
    ):
        run.log_metrics({"loss": 1.0})
    assert time.monotonic() - start < 30
    with stage_run("a", params):
        pass


def test_a_deleted_experiment_is_a_clear_error(root):
    params = given({"tracking": {"system_metrics": False, "experiment": "thrown-away"}})
    with opened("a", params) as run:
        pass
    run.client.delete_experiment(run.experiment_id)
    with pytest.raises(UserError, match="'thrown-away' is deleted"):
        stage_run("a", params).open()


def test_store_uri(monkeypatch, tmp_path):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://host:5000")
    assert store_uri(None) == "http://host:5000"
    assert store_uri("sqlite:///sub/x.db") == f"sqlite:///{tmp_path}/sub/x.db"
    assert store_uri("sqlite:////abs/x.db") == "sqlite:////abs/x.db"
    monkeypatch.setenv("DVC_ROOT", "/a%20b?c")
    assert store_uri("sqlite:///x.db") == "sqlite:////a%2520b%3Fc/x.db"  # as SQLAlchemy reads it


@pytest.mark.parametrize("uri", ["file:///x/mlruns", "./mlruns", "sqlite:mlflow.db"])
def test_what_mlflow_does_not_take_is_refused(uri):
    with pytest.raises(UserError, match=f"MLflow store {uri}: expected sqlite or a server. Set tracking.uri"):
        store_uri(uri)


@pytest.mark.parametrize("uri", [None, "sqlite:///x.db"])
def test_a_file_is_no_store_for_several_machines(monkeypatch, uri):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match=r"is a file, .* \(make server\), and set tracking\.uri to http://HOST:5000"):
        check_shared(uri)


def test_a_server_is_a_store_for_several_machines():
    check_shared("http://host:5000")
    check_shared("postgresql://host/x")


def test_metric_name():
    assert metric_name("fisher-ld.ndcg@10") == "fisher-ld.ndcg_at_10"
    assert metric_name("share (%)") == "share ___"
