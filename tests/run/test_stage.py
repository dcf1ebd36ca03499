import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fisher_ld.config.params import Params, parse
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path
from fisher_ld.run import stage as common
from fisher_ld.run.stage import declared_keys, restrict, stage

ROOT = Path(__file__).parents[1]
PIPELINE = """
stages:
  preprocess:
    cmd: python -m stages.preprocess
    params: [data, seed]
  estimate_fisher:
    cmd: python -m stages.estimate_fisher
    params: [seed, fisher.kind, fisher.samples, teacher.prompt]
  distill:
    foreach: [none, uniform]
    do:
      cmd: python -m stages.distill ${item}
      params: [distill]
  cells:
    matrix: {weighting: [linear]}
    cmd: python -m stages.cells ${item.weighting}
    params: [evaluate.neighbours]
  report:
    cmd: python -m stages.report
"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project's folder with a pipeline, params and no MLflow."""

    class Run:
        started: list = []  # noqa: RUF012

        def __init__(self, name, params, declared):
            self.name, self.declared, self.error, self.file = name, declared, None, False
            Run.started.append(self)

        def __enter__(self):
            return self

        def __exit__(self, kind, error, trace):
            self.error = kind

        def write_run_file(self):
            self.file = True

    monkeypatch.setattr(common, "StageRun", Run)
    monkeypatch.setattr(common.signal, "signal", lambda *handler: None)
    monkeypatch.setenv("DVC_ROOT", str(tmp_path / "root"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dvc.yaml").write_text(PIPELINE)
    (tmp_path / "params.yaml").write_text("fisher:\n  samples: 8\n")
    Run.started = []
    return Run.started


def failure(name, main):
    with pytest.raises(SystemExit) as stopped:
        stage(name, main)
    assert isinstance(stopped.value.code, str)  # printed to stderr, exit code 1
    return stopped.value.code


def test_declared_keys(project):
    assert declared_keys("preprocess") == ("data", "seed")
    assert declared_keys("estimate_fisher") == ("seed", "fisher.kind", "fisher.samples", "teacher.prompt")
    assert declared_keys("distill") == ("distill",)
    assert declared_keys("cells") == ("evaluate.neighbours",)
    assert declared_keys("report") == ()
    with pytest.raises(UserError, match=r"no stage 'preproces'; did you mean preprocess\?"):
        declared_keys("preproces")


def test_a_stage_reads_what_it_declares(project):
    def main(params, run):
        assert params.seed == 0 and params.fisher.samples == 8
        assert params.teacher.prompt is params.teacher.prompt and params.teacher.prompt.yes == " yes"
        assert params.cluster.device == "cpu" and params.tracking.experiment == "fisher-ld"
        assert params.fisher.model_dump() == {"kind": "true", "samples": 8}
        assert set(params.model_dump()) == {
            "seed",
            "fisher",
            "teacher",
        }  # not where it runs: a checkpoint's key

    stage("estimate_fisher", main)
    (run,) = project
    assert run.name == "estimate_fisher" and run.file and run.error is None
    assert run.declared["fisher.samples"] == 8 and run.declared["teacher.prompt.no"] == " no"
    assert set(run.declared) == {"seed", "fisher.kind", "fisher.samples"} | {
        f"teacher.prompt.{name}" for name in ("prefix", "history", "candidate", "yes", "no")
    }


@pytest.mark.parametrize(
    ("read", "key"),
    [
        (lambda params: params.fisher.beta, "fisher.beta"),
        (lambda params: params.student, "student"),
        (lambda params: params.teacher.adapt.steps, "teacher.adapt"),
    ],
)
def test_an_undeclared_key_is_named(project, read, key):
    text = failure("estimate_fisher", lambda params, run: read(params))
    assert text.startswith(f"estimate_fisher: stage estimate_fisher reads {key}, which dvc.yaml does not declare")
    assert project[0].error is UserError and not project[0].file


def test_a_prefix_of_a_name_declares_nothing(project):
    view = restrict(parse({}), "s", ("data.source", "seed"))
    assert view.data.source.kind == "movielens-100k"
    with pytest.raises(UserError, match=r"data\.split"):
        _ = view.data.split
    with pytest.raises(AttributeError, match=r"params have no sed; did you mean seed\?"):
        _ = view.sed


def test_a_key_that_cannot_exist_is_refused():
    for key, hint in [("fisher.betta", "did you mean beta?"), ("seed.x", "deeper"), ("nothing", "valid are")]:
        with pytest.raises(UserError, match=re.escape(f"declares {key}, which params.yaml cannot have")) as error:
            restrict(Params(), "s", (key,))
        assert hint in str(error.value)


def test_bad_params_stop_before_any_work(project):
    Path("params.yaml").write_text("fisher:\n  betta: 1\nsed: 2\n")
    text = failure("report", lambda params, run: pytest.fail("ran"))
    assert "2 errors" in text and "did you mean beta?" in text and "did you mean seed?" in text
    assert project == []


def test_params_that_do_not_fit_the_teacher_stop_before_any_work(project):
    config = Path("data/teacher/base/config.json")
    config.parent.mkdir(parents=True)
    config.write_text('{"num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 4, "model_type": "llama"}')
    Path("params.yaml").write_text("student: {layers: 4}\n")
    text = failure("report", lambda params, run: pytest.fail("ran"))
    assert "student.layers: expected at most the teacher's 3 layers, got 4" in text
    assert project == []


def test_full_disk_is_one_message(project):
    def direct(params, run):
        raise OSError(errno.ENOSPC, "No space left on device", "data/x.bin")

    def inside(params, run):
        with atomic_path("data/x.bin") as temporary:
            temporary.write_text("half")
            raise OSError(errno.ENOSPC, "No space left on device")

    for main in (direct, inside):
        assert failure("report", main).startswith("report: disk full: data/x.bin could not be written")
    assert os.listdir("data") == []


def test_a_bug_keeps_its_traceback(project):
    def main(params, run):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        stage("report", main)
    assert project[0].error is ZeroDivisionError and not project[0].file


def test_the_item_of_a_foreach_stage_is_its_own_run(project):
    stage("distill@uniform", lambda params, run: None)
    stage("distill", lambda params, run: None)
    assert [run.name for run in project] == ["distill@uniform", "distill"]


SCRIPT = """
import time
from stages import common
class Run:
    def __init__(self, *args): pass
    def __enter__(self): return self
    def __exit__(self, *error): print("left", error[0].__name__, flush=True)
    def write_run_file(self): pass
common.StageRun = Run
def main(params, run):
    print("running", flush=True)
    time.sleep(60)
common.stage("report", main)
"""


def start(folder):
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipe = subprocess.PIPE
    process = subprocess.Popen([sys.executable, "-c", SCRIPT], cwd=folder, env=env, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout is not None and process.stdout.readline() == "running\n"
    return process


def test_an_orphan_of_this_folder_stops_the_stage_and_sigterm_ends_it(project, tmp_path):
    process = start(tmp_path)
    try:
        text = failure("report", lambda params, run: pytest.fail("ran"))
        assert f"process {process.pid} still runs report in this folder" in text
        stage("preprocess", lambda params, run: None)
    finally:
        process.terminate()
        out, _ = process.communicate()
    assert out == "left SystemExit\n" and process.returncode == 143
    stage("report", lambda params, run: None)
