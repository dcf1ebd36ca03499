"""Cells side by side, in a DVC repository of shell commands."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import pytest
import yaml

from fisher_ld.config.paths import FURTHER
from fisher_ld.core.errors import UserError
from fisher_ld.run import cells
from tests.given import ROOT, given

MEET = "touch {0}.here; for i in $(seq 200); do test -e {1}.here && break; sleep 0.05; done; test -e {1}.here"
SINGLE = "set -C; echo > one; sleep 0.2; rm one"  # fails where another has made the file
STAGES = {
    "first": {"cmd": "echo $OMP_NUM_THREADS > first", "outs": ["first"], "params": ["value"]},
    "a": {"cmd": MEET.format("a", "b") + " && echo $OMP_NUM_THREADS > a", "deps": ["first"], "outs": ["a"]},
    "b": {"cmd": MEET.format("b", "a") + " && echo b > b", "deps": ["first"], "outs": ["b"]},
    "efficiency": {"cmd": f"{SINGLE}; echo $OMP_NUM_THREADS > e", "deps": ["first"], "outs": ["e"]},
    "score_teacher": {"cmd": f"{SINGLE}; echo > s", "deps": ["first"], "outs": ["s"]},
    "last": {"cmd": "cat a b e s > last", "deps": ["a", "b", "e", "s"], "outs": ["last"]},
}


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("DVC_")]:
        monkeypatch.delenv(name)
    write(tmp_path / "dvc.yaml", {"stages": STAGES})
    write(tmp_path / "params.yaml", {"value": 1})
    dvc("init", "--no-scm", "--quiet")
    return tmp_path


def write(path, tree) -> None:
    path.write_text(yaml.safe_dump(tree))


def dvc(*command: str) -> str:
    return subprocess.run([sys.executable, "-m", "dvc", *command], check=True, capture_output=True, text=True).stdout


ALONE = cells.alone_here(given().cluster)


def test_no_job_of_slurm_must_be_alone():
    of_slurm = cells.alone_here(given({"cluster": {"launcher": "slurm"}}).cluster)
    assert ALONE("score_teacher@a-0") and not of_slurm("score_teacher@a-0") and not ALONE("distill@a-b-c-0")


def work(threads: int = 4, at_once: int = 2) -> cells.Outcome:
    made = cells.Cells(threads, at_once, ALONE)
    return cells.work_through(cells.outdated(), at_once, ALONE, made.run, made.interrupt)


def test_two_cells_run_at_once_and_dvc_lock_is_whole(project, capsys):
    """`a` and `b` each end well only if the other one runs too."""
    assert work() == cells.Outcome()
    assert set(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == set(STAGES)
    assert json.loads(dvc("status", "--json")) == {}
    assert [(project / name).read_text() for name in ("a", "e")] == ["2\n", "4\n"]  # threads
    lines = capsys.readouterr().out.splitlines()
    assert "a | Running stage 'a':" in lines
    assert all(" | " in line for line in lines) and not any("git add" in line for line in lines)


def test_what_did_not_change_does_not_run_again(project, capsys):
    work()
    assert cells.outdated() == {}
    (project / "b").unlink()
    assert list(cells.outdated()) == ["b", "last"]
    for name in "ab":
        (project / f"{name}.here").touch()
    write(project / "params.yaml", {"value": 2})
    assert next(iter(cells.outdated())) == "first"
    capsys.readouterr()
    assert work() == cells.Outcome()
    told = capsys.readouterr().out
    assert "Running stage 'first'" in told
    assert "Stage 'a' didn't change" in told  # `first` left the same file


def test_a_further_method_runs_alone_where_its_stage_does():
    assert ALONE(f"cache_signals{FURTHER}@movielens-100k-tinybert")
    assert not ALONE(f"distill{FURTHER}@movielens-100k-small-tinybert-0")


def test_the_stages_that_run_alone_are_stages():
    assert set(cells.ALONE) <= set(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"])


def test_a_failed_cell_takes_with_it_only_those_that_need_it(project):
    stages = json.loads(json.dumps(STAGES))
    stages["efficiency"]["cmd"] = "echo no such thing; exit 3"
    write(project / "dvc.yaml", {"stages": stages})
    assert work() == cells.Outcome(["efficiency"], ["last"])
    assert all((project / name).exists() for name in ("first", "a", "b", "s"))


def interrupted(cell: str) -> cells.Cells:
    """Cells of which this one was interrupted when there was a file `begun`."""
    made = cells.Cells(1, 1, ALONE)

    def interrupt() -> None:
        while not os.path.exists("begun"):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        cells.work_through({cell: set()}, 1, ALONE, made.run, made.interrupt)
    return made


def test_an_interruption_ends_what_runs(project, capsys):
    write(project / "dvc.yaml", {"stages": {"long": {"cmd": "touch begun; exec sleep 600", "outs": ["never"]}}})
    made = interrupted("long")
    assert not made.processes
    assert "long" in capsys.readouterr().out
    (project / "dvc.yaml").write_text("stages: {}")
    dvc("status")  # the repository is not left locked


def test_what_runs_is_ended_where_its_words_cannot_be_written(project, monkeypatch):
    write(project / "dvc.yaml", {"stages": {"long": {"cmd": "echo begun; exec sleep 600", "outs": ["never"]}}})
    made = cells.Cells(1, 1, ALONE)

    def full(text: str) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space left"):
        patch.setattr(sys, "stdout", SimpleNamespace(write=full, flush=lambda: None))
        cells.work_through({"long": set()}, 1, ALONE, made.run, made.interrupt)
    assert not made.processes


def test_dvc_is_not_interrupted_while_it_writes(project, monkeypatch):
    """It is slowed where it writes dvc.lock, for a second, and told to end in the middle."""
    (project / "sitecustomize.py").write_text(
        "import time\nfrom ruamel.yaml import YAML\ndump = YAML.dump\n"
        "def slow(self, data, stream=None, **more):\n"
        "    open('begun', 'w').close()\n    time.sleep(1)\n    return dump(self, data, stream, **more)\n"
        "YAML.dump = slow\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(project))
    write(project / "dvc.yaml", {"stages": {"short": {"cmd": "echo > done", "outs": ["done"]}}})
    interrupted("short")
    assert set(yaml.safe_load((project / "dvc.lock").read_text())["stages"]) == {"short"}


def test_a_lock_that_is_cut_costs_no_cell(project, capsys):
    work()
    lock = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(lock[: len(lock) // 2].rpartition("\n")[0] + "\n    params:\n      params.yaml:")
    with pytest.raises(UserError, match=r"dvc\.lock.*: remove dvc\.lock and run this again"):
        cells.outdated()
    (project / "dvc.lock").unlink()
    capsys.readouterr()
    assert work() == cells.Outcome()
    assert "Running stage" not in capsys.readouterr().out


@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_no_cell_begins_before_what_it_needs_is_done(at_once):
    needs = {"a": set(), "score_teacher": set(), "b": {"a"}, "c": {"a"}, "efficiency": {"b"}, "d": {"c", "efficiency"}}
    done, running, guard = [], set(), threading.Lock()

    def run(cell: str) -> bool:
        with guard:
            assert needs[cell] <= set(done) and len(running) < at_once
            assert not (running and (ALONE(cell) or any(map(ALONE, running))))
            running.add(cell)
        time.sleep(0.01)
        with guard:
            running.remove(cell)
            done.append(cell)
        return True

    assert cells.work_through(needs, at_once, ALONE, run, lambda: None) == cells.Outcome()
    assert sorted(done) == sorted(needs)


def test_what_does_not_fit_the_teacher_is_said_before_any_cell_that_reads_it(project):
    stages = {
        "download_teacher": {"cmd": "echo > base", "outs": ["base"]},
        "check_params": {"cmd": "false", "deps": ["base", "params.yaml"]},
        "embed": {"cmd": "cat base > states", "deps": ["base"], "outs": ["states"]},
        "adapt": {"cmd": "cat states > adapted", "deps": ["states"], "outs": ["adapted"]},
        "download": {"cmd": "echo > raw", "outs": ["raw"]},
    }
    write(project / "dvc.yaml", {"stages": stages})
    assert work() == cells.Outcome(failed=["check_params"], left=["embed", "adapt"])


def test_a_run_beside_another_one_says_so(project):
    from dvc.lock import LockError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dvc.repo.Repo.status", Mock(side_effect=LockError("'a' is busy")))
        with pytest.raises(UserError, match="another run is at work") as error:
            cells.outdated()
    assert "git init" not in str(error.value)
