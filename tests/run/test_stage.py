import errno
import os
import re
import subprocess
import sys
from pathlib import Path
from types import FunctionType

import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, write_json
from fisher_ld.run import stage as module
from fisher_ld.run.stage import declared_keys, read_params, restrict, stage
from tests.given import ROOT, given

PIPELINE = """
stages:
  preprocess:
    foreach: ${run.data}
    do:
      cmd: python -m stages.preprocess ${item}
      params: [data, "data_sets.${item}", seed]
  estimate_fisher:
    cmd: python -m stages.estimate_fisher
    params: [seed, fisher.kind, fisher.samples, teacher.answers]
  distill:
    matrix: {data: "${run.data}", student: "${run.students}", method: "${run.methods}", seed: "${run.seeds}"}
    cmd: python -m stages.distill ${item.data} ${item.student} ${item.method} ${item.seed} ${run.teacher_seeds[0]}
    params: [distill, "students.${item.student}"]
  report:
    cmd: python -m stages.report
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with a pipeline, params and no MLflow; the runs that stages started there."""

    class Run:
        started: list = []  # noqa: RUF012

        def __init__(self, cell, folder, params, declared):
            self.cell, self.folder, self.declared, self.error, self.opened = cell, folder, declared, None, False
            Run.started.append(self)

        def open(self):
            self.opened = True

        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            self.error = kind

    monkeypatch.setattr(module, "StageRun", Run)
    monkeypatch.setattr(module.signal, "signal", lambda *handler: None)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    write_params(tmp_path)
    Run.started = []
    return Run.started


def write_params(folder, changes=None):
    """params.yaml, in JSON, which is YAML as well."""
    write_json(Path(folder) / "params.yaml", given(changes).model_dump(mode="json"))


@pytest.fixture
def call(monkeypatch):
    """Runs `main` as `python -m stages.NAME NAMES` does."""

    def call(name, main, *names):
        monkeypatch.setattr(sys, "argv", [name, *names])
        place = {**main.__globals__, "__file__": f"stages/{name}.py"}
        stage(FunctionType(main.__code__, place, main.__name__, main.__defaults__, main.__closure__))

    return call


@pytest.fixture
def failure(call):
    def failure(name, main, *names):
        with pytest.raises(SystemExit) as stopped:
            call(name, main, *names)
        assert isinstance(stopped.value.code, str)  # printed to stderr, exit code 1
        return stopped.value.code

    return failure


def never(params, run):
    pytest.fail("ran")


def test_declared_keys(project):
    assert declared_keys("preprocess", {"data": "mine"}) == ("data", "data_sets.mine", "seed")
    assert declared_keys("distill", {"data": "mine", "student": "tiny"}) == ("distill", "students.tiny")
    assert declared_keys("estimate_fisher", {}) == ("seed", "fisher.kind", "fisher.samples", "teacher.answers")
    assert declared_keys("report", {}) == ()
    with pytest.raises(UserError, match=r"no stage 'preproces'; did you mean preprocess\?"):
        declared_keys("preproces", {})


def test_a_stage_reads_what_it_declares(project, call):
    def main(params, run):
        assert params.seed == 0 and params.fisher.samples == 60
        assert params.teacher.answers is params.teacher.answers and params.teacher.answers.yes == " yes"
        assert params.cluster.device == "cpu" and params.tracking.experiment == "fisher-ld"
        assert params.fisher.model_dump() == {"fisher.kind": "model", "fisher.samples": 60}
        parts = {key.partition(".")[0] for key in params.model_dump()}
        assert parts == {"seed", "fisher", "teacher"}  # not where it runs: a checkpoint's key

    call("estimate_fisher", main)
    (run,) = project
    assert (run.cell, run.folder) == ("estimate_fisher", Path("metrics/cells/estimate_fisher/run"))
    assert run.error is None and not run.opened
    assert run.declared == {
        "seed": 0, "fisher.kind": "model", "fisher.samples": 60, "teacher.answers.yes": " yes",
        "teacher.answers.no": " no",
    }  # fmt: skip


def test_a_cell_has_the_names_of_the_command_line_but_for_the_teacher(project, call):
    seen = []

    def main(params, run, data, student, method, seed, teacher):
        seen.append((data, student, method, seed, teacher))
        assert params.students[student].layers == 3
        assert {key.partition(".")[0] for key in params.model_dump()} == {"distill", "students"}

    call("distill", main, "movielens-100k", "small", "fisher-ld", "2", "7")
    assert seen == [("movielens-100k", "small", "fisher-ld", 2, 7)]
    (run,) = project
    assert run.cell == "distill@movielens-100k-small-fisher-ld-2"
    assert run.folder == Path("metrics/cells/distill/movielens-100k/small/fisher-ld/2")
    assert run.opened  # a store that cannot be had must not cost hours of training


def test_a_cell_sees_its_own_entry_of_a_catalogue_alone(project, call, failure):
    changes = {"data_sets": {"mine": {"source": {"kind": "movielens-1m"}, "max_users": 9}}, "data": {"max_users": 3}}
    write_params(".", changes)

    def main(params, run, data):
        assert params.data_sets[data].max_users == {"mine": 9, "movielens-100k": 3}[data]
        assert params.data_sets[data].user_core == 5

    def other(params, run, data):
        return params.data_sets["movielens-100k"]

    call("preprocess", main, "mine")
    call("preprocess", main, "movielens-100k")
    assert "reads data_sets.movielens-100k, which dvc.yaml does not declare" in failure("preprocess", other, "mine")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "expected python -m stages.distill DATA STUDENT METHOD SEED TEACHER, got no names"),
        (["movielens-100k", "small", "none", "0"], "SEED TEACHER, got movielens-100k small none 0"),
        (["movielens-10k", "small", "none", "0", "0"], "no data 'movielens-10k'; did you mean movielens-100k?"),
        (["movielens-100k", "smal", "none", "0", "0"], "no student 'smal'; did you mean small?"),
        (["movielens-100k", "small", "fishr", "0", "0"], "no method 'fishr'; did you mean fisher?"),
        (["movielens-100k", "small", "none", "x", "0"], "expected a whole number for SEED, got 'x'"),
        (["movielens-100k", "small", "none", "0", "-1"], "expected a whole number for TEACHER, got '-1'"),
    ],
)
def test_names_that_cannot_be_are_refused(project, failure, names, message):
    def main(params, run, data, student, method, seed, teacher):
        pytest.fail("ran")

    assert message in failure("distill", main, *names)
    assert project == []


@pytest.mark.parametrize(
    ("read", "key"),
    [
        (lambda params: params.fisher.beta, "fisher.beta"),
        (lambda params: params.students, "students"),
        (lambda params: params.teacher.adapt.steps, "teacher.adapt"),
    ],
)
def test_an_undeclared_key_is_named(project, failure, read, key):
    text = failure("estimate_fisher", lambda params, run: read(params))
    assert text.startswith(f"estimate_fisher: stage estimate_fisher reads {key}, which dvc.yaml does not declare")
    assert project[0].error is UserError


def test_a_prefix_of_a_name_declares_nothing():
    view = restrict(given({"students": {"small-2": {"init": "first", "layers": 3, "vocabulary": "full"}}}), "s",
                    ("teacher.source", "students.small", "seed"))  # fmt: skip
    assert view.teacher.source.kind == "package" and view.students["small"].layers == 3
    with pytest.raises(UserError, match=r"teacher\.answers"):
        _ = view.teacher.answers
    with pytest.raises(UserError, match=r"students\.small-2"):
        _ = view.students["small-2"]
    with pytest.raises(AttributeError, match=r"params have no sed; did you mean seed\?"):
        _ = view.sed


def test_a_key_that_cannot_exist_is_refused():
    for key, hint in [
        ("fisher.betta", "did you mean beta?"),
        ("students.smal", "did you mean small?"),
        ("seed.x", "deeper"),
        ("nothing", "valid are"),
    ]:
        with pytest.raises(UserError, match=re.escape(f"declares {key}, which params.yaml cannot have")) as error:
            restrict(given(), "s", (key,))
        assert hint in str(error.value)


def test_bad_params_stop_before_any_work(project, failure):
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace('"beta"', '"betta"'))
    said = failure("report", never)
    assert "did you mean beta?" in said and "fisher.beta: missing" in said
    assert project == []


@pytest.mark.parametrize(
    ("valid", "wrong"),
    [('"fisher-ld"', '"fisher-ldd"'), ('"kind": "movielens-100k"', '"kind": "movielens-101k"')],
)
def test_methods_and_sources_are_those_of_the_tables(project, valid, wrong):
    read_params()
    Path("params.yaml").write_text(Path("params.yaml").read_text().replace(valid, wrong))
    with pytest.raises(UserError, match=r"did you mean (fisher-ld|movielens-100k)\?"):
        read_params()


def test_params_that_do_not_fit_the_teacher_stop_before_any_work(project, call, failure):
    config = {"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4, "model_type": "llama"}
    write_json("data/teacher/base/config.json", config)
    write_params(".", {"students": {"small": {"layers": 4}}, "run": {"shallow": ["truncated-4"]}})
    said = failure("report", never)
    assert "students.small.layers: expected at most the teacher's 3 layers, got 4" in said
    assert project == []
    Path("dvc.yaml").write_text(PIPELINE + "  download_teacher:\n    cmd: x\n")
    call("download_teacher", lambda params, run: None)  # which may bring one that fits
    assert [run.cell for run in project] == ["download_teacher"]


def test_full_disk_is_one_message(project, failure):
    def direct(params, run):
        raise OSError(errno.ENOSPC, "No space left on device", "data/x.bin")

    def inside(params, run):
        with atomic_path("data/x.bin") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    for main in (direct, inside):
        assert failure("report", main).startswith("report: disk full: data/x.bin could not be written")
    assert os.listdir("data") == []


def test_a_bug_keeps_its_traceback(project, call):
    def main(params, run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        call("report", main)
    assert project[0].error is ZeroDivisionError


SCRIPT = """
import time
from fisher_ld.run import stage
class Run:
    def __init__(self, *args): pass
    def open(self): pass
    def __enter__(self): return self
    def __exit__(self, *error): print("left", error[0].__name__, flush=True)
stage.StageRun = Run
def main(params, run):
    print("running", flush=True)
    time.sleep(60)
__file__ = "stages/report.py"
stage.stage(main)
"""


def start(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    return process


def test_an_orphan_of_this_folder_stops_the_stage_and_sigterm_ends_it(project, tmp_path, call, failure):
    process = start(tmp_path)
    try:
        said = failure("report", never)
        assert f"process {process.pid} still runs report in this folder" in said
        call("estimate_fisher", lambda params, run: None)
    finally:
        process.terminate()
        out, _ = process.communicate()
    assert out == "left SystemExit\n" and process.returncode == 143
    call("report", lambda params, run: None)


def test_a_job_of_slurm_needs_a_server(project, call, failure, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    launched = []
    monkeypatch.setattr(module, "launch", lambda cell, *rest: launched.append(cell) or 3)
    changes = {"cluster": {"launcher": "slurm"}}
    write_params(".", changes)
    assert "estimate_fisher: MLflow store sqlite:///" in failure("estimate_fisher", never) and not launched
    write_params(".", {**changes, "tracking": {"uri": "http://host:5000"}})
    with pytest.raises(SystemExit) as stopped:
        call("estimate_fisher", never)
    assert stopped.value.code == 3 and launched == ["estimate_fisher"] and not project
