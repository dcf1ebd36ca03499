"""Jobs of a real SLURM: a controller and two nodes, all on this machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.slow.test_end_to_end import SMALL, begin, environment, run
from tests.slow.test_registry import free_port

ROOT = Path(__file__).parents[2]
CONF = Path(__file__).parent / "slurm.conf"
PROBE = """
import os, signal, sys, time
from pathlib import Path
from fisher_ld.run.stage import terminate
signal.signal(signal.SIGTERM, terminate)
what, rank = sys.argv[1], os.environ["RANK"]
print("rank", rank, "of", os.environ["WORLD_SIZE"], os.environ["FISHER_LD_STARTED"], flush=True)
if what == "fail":
    sys.exit("it went wrong")
if what == "fail-second":
    sys.exit("the second went wrong") if rank == "1" else time.sleep(300)
if what == "sum":
    import torch
    from fisher_ld.core import ranks
    ranks.meet("cpu")
    value = torch.tensor([float(rank) + 1])
    torch.distributed.all_reduce(value)
    print("sum", value.item(), "threads", os.environ["OMP_NUM_THREADS"], flush=True)
    ranks.part()
# a node that dies lets nothing end well: what it keeps, it keeps at once
if what in ("long", "dies") and Path("resumed" + rank).exists():
    print("goes on", flush=True)
elif what in ("long", "dies"):
    try:
        if what == "dies":
            Path("resumed" + rank).touch()
        Path("begun" + rank).touch()
        while not all(Path(f"begun{other}").exists() for other in range(int(os.environ["WORLD_SIZE"]))):
            time.sleep(0.1)
        print("begins", flush=True)
        time.sleep(300)
    finally:
        Path("resumed" + rank).touch()
"""
RUN = """
import json, signal, sys
from fisher_ld.core.errors import UserError
from fisher_ld.run.slurm import run_job
from fisher_ld.run.stage import terminate
from tests.given import given
signal.signal(signal.SIGTERM, terminate)
place = given({"cluster": {"launcher": "slurm", **json.loads(sys.argv[2])}}).cluster
try:
    sys.exit(run_job(f"probe@{sys.argv[1]}", "probe", [sys.argv[1]], place, place.nodes * place.processes))
except UserError as error:
    sys.exit(f"UserError: {error}")
"""
DAEMONS = ("munged", "slurmctld", "slurmd")
os.environ["PATH"] += ":/usr/sbin:/sbin"  # where they are, and no user's PATH goes


def _install() -> None:
    if all(map(shutil.which, DAEMONS)):
        return
    if os.getuid() or not shutil.which("apt-get"):
        pytest.skip("SLURM is not here, and only root can install it with apt-get")
    for command in ("apt-get update", "apt-get install -y slurm-wlm munge"):
        done = subprocess.run(command.split(), capture_output=True, text=True, env={**os.environ, "LC_ALL": "C"})
        if done.returncode:
            pytest.skip(f"SLURM cannot be installed here: {command}: {done.stderr[-300:]}")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory) -> Iterator[dict[str, str]]:
    """The environment in which SLURM's commands find the cluster."""
    _install()
    if os.getuid():
        pytest.skip("only root can start SLURM's daemons")
    folder, host = tmp_path_factory.mktemp("slurm"), socket.gethostname().split(".")[0]
    conf = folder / "slurm.conf"
    conf.write_text(CONF.read_text().replace("{folder}", str(folder)).replace("{host}", host))
    for name in ("state", host, "zz2"):
        (folder / name).mkdir()
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    munge = {"socket": "munge.socket", "key-file": "munge.key", "log-file": "munged.log", "pid-file": "munged.pid"}
    munge["seed-file"] = "munged.seed"
    environment = {**os.environ, "SLURM_CONF": str(conf), "PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo"}
    commands = [
        ["munged", "--foreground", "--force", *(f"--{key}={folder / name}" for key, name in munge.items())],
        ["slurmctld", "-D", "-f", str(conf)],
        *(["slurmd", "-D", "-f", str(conf), "-N", name] for name in (host, "zz2")),
    ]
    running = []
    try:
        for command in commands:
            with open(folder / "daemons.log", "ab") as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log, env=environment))
            time.sleep(1.0)
        for _ in range(30):
            states = subprocess.run(["sinfo", "-h", "-N", "-p", "main", "-o", "%t"], capture_output=True, text=True,
                                    env=environment).stdout  # fmt: skip
            if states.split() == ["idle", "idle"]:
                break
            time.sleep(1.0)
        else:
            pytest.skip(f"SLURM does not start here: {(folder / 'daemons.log').read_text()[-500:]}")
        yield environment
    finally:
        for process in reversed(running):
            process.terminate()
            process.wait(30)


class Project:
    def __init__(self, folder: Path, environment: dict[str, str]):
        self.folder, self.environment = folder, environment
        self.started: list[subprocess.Popen[str]] = []

    def start(self, what: str, **place) -> subprocess.Popen[str]:
        with open(self.folder / "out", "w") as out:
            process = subprocess.Popen([sys.executable, "-c", RUN, what, json.dumps(place)], cwd=self.folder,
                                       stdout=out, stderr=subprocess.STDOUT, text=True,
                                       env=self.environment)  # fmt: skip
        self.started.append(process)
        return process

    def end(self, process: subprocess.Popen[str]) -> tuple[int, str]:
        """The exit code and what was said; no job may be left."""
        try:
            code = process.wait(120)
        finally:
            print(self.said(), self.slurm("squeue"), self.slurm("sinfo", "-N", "-l"))
        assert self.slurm("squeue", "-h") == ""
        return code, self.said()

    def run(self, what: str, **place) -> tuple[int, str]:
        return self.end(self.start(what, **place))

    def said(self) -> str:
        return (self.folder / "out").read_text()

    def until(self, text: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while text not in self.said():
            assert time.monotonic() < end, f"no {text!r} in {self.said()!r}"
            time.sleep(0.2)

    def slurm(self, *command: str) -> str:
        return subprocess.run(command, capture_output=True, text=True, check=True, env=self.environment).stdout

    def job(self) -> str:
        return self.slurm("squeue", "-h", "-p", "main", "-o", "%i").strip()

    def go_on(self) -> None:
        """SLURM lets a job that is queued again wait for two minutes; this takes away the wait."""
        self.until("(BeginTime), to go on from its checkpoint")
        self.slurm("scontrol", "update", f"jobid={self.job()}", "starttime=now")


@pytest.fixture
def project(cluster, tmp_path) -> Iterator[Project]:
    (tmp_path / "stages").mkdir()
    (tmp_path / "stages" / "__init__.py").touch()
    (tmp_path / "stages" / "probe.py").write_text(PROBE)
    project = Project(tmp_path, cluster)
    yield project
    for process in project.started:
        process.kill()
        process.wait()
    subprocess.run(["scancel", "--user=root"], env=cluster)
    while project.slurm("squeue", "-h"):
        time.sleep(0.5)


def test_a_job_that_goes_well(project):
    code, said = project.run("nothing")
    assert code == 0 and "rank 0 of 1 slurm\n" in said and "submitit" not in said and "srun" not in said
    assert list((project.folder / "work" / "slurm").iterdir()) == []


def test_two_nodes_work_together(project):
    code, said = project.run("sum", nodes=2, cpus=1)
    assert code == 0 and "sum 3.0 threads 1\n" in said and "rank 0 of 2 slurm\n" in said


def test_a_stage_that_fails(project):
    code, said = project.run("fail")
    assert code == 1 and said.count("it went wrong") == 1 and "Traceback" not in said and "UserError" not in said


def test_a_rank_that_fails_ends_the_others(project):
    code, said = project.run("fail-second", nodes=2)
    assert code == 1 and said.splitlines()[-1] == "task 1: the second went wrong"


def test_scancel(project):
    process = project.start("long", nodes=2)
    project.until("begins")
    project.slurm("scancel", project.job())
    code, said = project.end(process)
    assert code == 1 and "was cancelled by someone (scancel). Run the same command again" in said.splitlines()[-1]
    assert project.run("long")[0] == 0


def test_a_job_that_never_starts(project):
    code, said = project.run("nothing", nodes=2, wait=1, partition="small")
    assert code == 1 and "did not start within 1 minutes (PENDING: PartitionNodeLimit); ask for" in said


def test_sbatch_refuses(project):
    code, said = project.run("nothing", partition="none")
    assert code == 1 and said.startswith("UserError: sbatch refused the job (") and len(said.splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt(project, number):
    process = project.start("long")
    project.until("begins")
    process.send_signal(number)
    code, _ = project.end(process)
    assert code in (-signal.SIGINT, 1, 128 + signal.SIGTERM)
    assert project.run("long")[0] == 0


def test_the_end_of_a_jobs_time(project):
    """SLURM counts it in minutes; this is what it sends."""
    process = project.start("long", nodes=2)
    project.until("begins")
    project.slurm("scancel", "--signal=USR2", project.job())
    project.go_on()
    code, said = project.end(process)
    assert code == 0 and "goes on" in said


def test_a_job_that_may_not_be_queued_again(project):
    process = project.start("long", sbatch=["--no-requeue"])
    project.until("begins")
    project.slurm("scancel", "--signal=USR2", project.job())
    code, said = project.end(process)
    assert code == 1 and "had to stop, at the end of its time or for another job" in said and "Traceback" not in said


def test_preemption(project):
    process = project.start("long", nodes=2)
    project.until("begins")
    project.slurm("srun", "-p", "urgent", "-N", "2", "true")
    project.go_on()
    code, said = project.end(process)
    assert code == 0 and "was preempted and waits to go on" in said and "goes on" in said


@pytest.mark.parametrize("again", [True, False])
def test_a_node_that_dies(project, again):
    process = project.start("dies", nodes=2, sbatch=[] if again else ["--no-requeue"])
    project.until("begins")
    project.slurm("scontrol", "update", "nodename=zz2", "state=down", "reason=test")
    try:
        if again:
            project.go_on()
    finally:
        time.sleep(2.0)
        # which it may have done by itself
        subprocess.run(["scontrol", "update", "nodename=zz2", "state=resume"], env=project.environment)
    code, said = project.end(process)
    if again:
        assert code == 0 and "goes on" in said
    else:
        assert code == 1 and "UserError: a node of job" in said


def test_a_waiting_process_that_was_killed(project):
    process = project.start("long")
    project.until("begins")
    process.kill()
    process.wait()
    left = project.job()
    assert left
    code, said = project.run("long")
    assert code == 0 and f"job {left}, left in the queue by an earlier run, is cancelled\n" in said


def test_cells_of_a_sweep_are_jobs_side_by_side(cluster, tmp_path):
    """Two students in training at once, each a job; dvc.lock and the store of MLflow are whole afterwards."""
    project = tmp_path / "project"
    uri = f"http://127.0.0.1:{free_port()}"
    store = [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "kept"),
    ]
    command = [sys.executable, "-m", "mlflow", "server", *store, "--port", uri.rpartition(":")[2], "--workers", "1"]
    with open(tmp_path / "server.log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            methods = ["none", "uniform", "linear"]
            few = {
                "run": {"methods": methods, "seeds": [0]},
                "tracking": {"uri": uri},
                "evaluate": {"permutations": 500},
            }
            begin(project, SMALL, few, {"cluster": {"cells": 2, "stages": {"distill": {"launcher": "slurm"}}}})
            with open(tmp_path / "out", "w") as out, subprocess.Popen(
                [sys.executable, "-m", "fisher_ld.run.cells"], cwd=project, stdout=out, stderr=out,
                env=environment(SLURM_CONF=cluster["SLURM_CONF"]),
            ) as cells:  # fmt: skip
                at_once = 0
                while cells.poll() is None:
                    asked = ["squeue", "-h", "-t", "RUNNING", "-o", "%j"]
                    at_once = max(
                        at_once, subprocess.run(asked, capture_output=True, env=cluster).stdout.count(b"distill")
                    )
                    time.sleep(0.3)
            assert cells.returncode == 0, (tmp_path / "out").read_text()[-3000:]
            assert at_once == 2
            assert "up to date" in run(project, "dvc", "status")
            client = MlflowClient(uri)
            runs = client.search_runs([e.experiment_id for e in client.search_experiments()], max_results=1000)
            trained = [found for found in runs if found.info.run_name.startswith("distill@")]
            assert len(trained) == len(methods) and {found.info.status for found in trained} == {"FINISHED"}
            assert len({found.data.tags["mlflow.parentRunId"] for found in trained}) == 1
        finally:
            server.terminate()
