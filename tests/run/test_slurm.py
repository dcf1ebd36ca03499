"""Against stand-ins for SLURM's commands; tests/slow/test_slurm.py has the real ones."""

import os
import time
from collections import namedtuple
from pathlib import Path

import pytest

from fisher_ld.core.errors import Unavailable, UserError
from fisher_ld.run import slurm
from fisher_ld.run.launch import JOBS, RESUMED
from fisher_ld.run.slurm import NoAnswer, run_job
from fisher_ld.run.slurm_task import Work
from tests.given import given

Space = namedtuple("Space", "free")
TOOLS = {
    "sbatch": 'cat $FAKE/refuses >&2 2>/dev/null && exit 1; cp "$1" $FAKE/script; echo 7 >> $FAKE/queue\n'
    'cd "$(dirname "$1")"; . $FAKE/job; echo "Submitted batch job 7"',
    "srun": "",
    "squeue": 'echo "$@" > $FAKE/asked; test ! -e $FAKE/silent || { cat $FAKE/silent >&2; exit 1; }\n'
    "cat $FAKE/queue 2>/dev/null || true",
    "scancel": 'echo "$@" >> $FAKE/cancelled; rm -f $FAKE/queue',
    # one line of `states` for each question, the last one again and again
    "scontrol": 'test "$1" = show || { echo "$@" >> $FAKE/requeued; exit 0; }\n'
    'state=$(head -n 1 $FAKE/states); test $(wc -l < $FAKE/states) -eq 1 || sed -i 1d $FAKE/states\n'
    'case "$state" in\n'
    'GONE) rm -f $FAKE/queue; echo "slurm_load_jobs error: Invalid job id specified" >&2; exit 1;;\n'
    'SILENT) echo "slurm_load_jobs error: Unable to contact slurm controller" >&2; exit 1;;\n'
    'PENDING*|REQUEUE_HOLD*|RUNNING*|COMPLETING*) ;; *) rm -f $FAKE/queue;; esac\n'
    'echo "JobId=7 JobName=x JobState=$state WorkDir=/a b"',
}  # fmt: skip
STOPPED = "Run the same command again; it goes on from its checkpoint"


class Fake:
    def __init__(self, folder: Path):
        self.folder = folder
        self.says("RUNNING NodeList=n1", "COMPLETED")
        self.does("echo 0 > 0.code")

    def says(self, *states: str) -> None:
        self.write("states", "\n".join(states) + "\n")

    def does(self, script: str) -> None:
        self.write("job", script + "\n")

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    def read(self, name: str) -> str:
        return file.read_text() if (file := self.folder / name).exists() else ""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    bin = tmp_path / "bin"
    bin.mkdir()
    for name, text in TOOLS.items():
        (bin / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin}:{os.environ['PATH']}")
    monkeypatch.setenv("FAKE", str(tmp_path))
    monkeypatch.delenv("DVC_ROOT", raising=False)
    monkeypatch.chdir(tmp_path)
    sleep = time.sleep
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: sleep(min(seconds, 0.01)))
    monkeypatch.setattr(slurm, "SHORTEST", 0.0)
    monkeypatch.setattr(slurm, "LONGEST", 0.0)
    return Fake(tmp_path)


def place(**more):
    return given({"cluster": {"launcher": "slurm", **more}}).cluster


def run(ranks=1, stage="distill", **more):
    return run_job(f"{stage}@a-1", stage, ["a", "1"], place(**more), ranks)


def folders():
    return list(Path("work/slurm").iterdir())


def test_a_job_that_goes_well(fake, capfd):
    fake.does("echo result > 7_0_log.out; printf 'srun: error: x\\nslurmstepd: x\\nstep 1\\nlast' > 7_0_log.err")
    fake.says("PENDING Reason=Resources", "RUNNING NodeList=n1", "RUNNING NodeList=n1", "COMPLETING", "COMPLETED")
    assert run() == 0
    out, err = capfd.readouterr()
    assert out == "result\n"
    told = err.splitlines()
    assert {"job 7: PENDING (Resources)", "job 7: RUNNING on n1", "step 1", "last"} == set(told) and len(told) == 4
    assert folders() == [] and not fake.read("cancelled")


def test_what_is_asked_for(fake):
    more = {"nodes": 2, "processes": 4, "cpus": 8, "memory": "64G", "time": "1-2", "partition": "p", "account": "a"}
    more |= {"qos": "q", "sbatch": ["--constraint=a100", "--nice"], "setup": ["module load x"], "device": "cuda"}
    assert run(8, **more) == 0
    script = fake.read("script")
    for option in (
        "nodes=2", "ntasks-per-node=4", "cpus-per-task=8", "gpus-per-node=4", "mem=64G", "time=1-2", "partition=p",
        "account=a", "qos=q", "constraint=a100", "nice", "requeue", "signal=USR2@90",
    ):  # fmt: skip
        assert f"#SBATCH --{option}\n" in script
    assert "module load x\n" in script and "--kill-on-bad-exit=1 --cpus-per-task=8" in script


def test_what_is_not_asked_for(fake):
    assert run(sbatch=["--no-requeue"], nodes=3, processes=2, device="cuda") == 0
    script = fake.read("script")
    for option in ("time", "mem", "partition", "account", "qos", "cpus-per-task", "requeue", "exclusive", "wckey"):
        assert f"--{option}" not in script
    assert "--nodes=1\n" in script and "--ntasks-per-node=1\n" in script and "--gpus-per-node=1\n" in script
    assert run(stage="efficiency") == 0
    assert "#SBATCH --exclusive\n" in fake.read("script")


def test_a_stage_that_fails(fake, capfd):
    fake.does("echo 143 > 0.code; echo 2 > 1.code; echo ended > 7_0_log.err; printf 'ended\\nwhy\\n' > 7_1_log.err")
    fake.says("RUNNING", "FAILED ExitCode=143:0")
    assert run(2, nodes=2) == 2
    told = capfd.readouterr().err.splitlines()
    assert told.count("ended") == 1 and told[-1] == "task 1: why"
    assert len(folders()) == 1  # its log
    fake.does("echo 0 > 0.code; echo 0 > 1.code")
    fake.says("COMPLETED")
    assert run(2, nodes=2) == 0 and folders() == []


@pytest.mark.parametrize(
    ("state", "job", "text"),
    [
        ("CANCELLED", "", f"job 7 was cancelled by someone (scancel). {STOPPED}"),
        ("NODE_FAIL NodeList=n1", "", f"a node of job 7 failed (n1). {STOPPED}"),
        ("OUT_OF_MEMORY", "echo 137 > 0.code", "job 7 needed more memory than it had (4G); raise cluster.memory or"),
        ("TIMEOUT TimeLimit=01:00:00", "", "job 7 ran out of its time (01:00:00) and was not queued again"),
        ("DEADLINE Reason=x", "", "job 7 ended as DEADLINE (x); its log is in work/slurm/distill@a-1-"),
        ("FAILED ExitCode=3:0", "echo no such module > 7_0_log.err", "before the stage began (no such module; exit"),
        ("FAILED ExitCode=137:0", "echo 137 > 0.code", "signal 9 ended the stage in job 7, as when memory was short"),
        ("FAILED ExitCode=140:0", "echo 140 > 0.code", "job 7 had to stop, at the end of its time or for another job,"),
        ("FAILED ExitCode=143:0", "echo 143 > 0.code", "signal 15 ended the stage in job 7, as when it was preempted"),
        ("GONE", "", "job 7 is gone from SLURM and left no result; its log is in work/slurm/distill@a-1-"),
    ],
)
def test_a_job_that_ends_otherwise(fake, state, job, text):
    fake.does(f"true; {job}" if job else "true")
    fake.says("RUNNING NodeList=n1", state)
    with pytest.raises(UserError) as error:
        run(memory="4G")
    assert text in str(error.value) and "\n" not in str(error.value)
    assert not fake.read("queue") and len(folders()) == 1


@pytest.mark.parametrize("code", [0, 1])
def test_a_job_that_slurm_has_forgotten_says_its_end_by_its_files(fake, code):
    fake.does(f"echo {code} > 0.code")
    fake.says("RUNNING", "GONE")
    assert run() == code


def test_a_job_that_is_queued_again(fake, capfd):
    fake.says("RUNNING NodeList=n1", "PENDING Reason=BeginTime Restarts=1", "RUNNING NodeList=n2", "COMPLETED")
    assert run() == 0
    assert "job 7: PENDING (BeginTime), to go on from its checkpoint\njob 7: RUNNING on n2\n" in capfd.readouterr().err


def test_a_preempted_job_that_ended_in_time_is_queued_again(fake, capfd):
    fake.does("echo 143 > 0.code")
    fake.says("RUNNING", "FAILED PreemptTime=2026-01-01T00:00:00", "PENDING Restarts=1", "COMPLETED")
    assert run() == 0
    assert fake.read("requeued") == "requeue 7\n" and "job 7 was preempted" in capfd.readouterr().err


def test_sbatch_refuses(fake, capfd):
    fake.write("refuses", "sbatch: error: invalid account\nsbatch: error: Batch job submission failed: no\n")
    with pytest.raises(UserError, match=r"^sbatch refused the job \(invalid account; Batch job .*: no\)"):
        run()
    assert capfd.readouterr().err == "" and folders() == []


def test_no_slurm_here(fake, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Unavailable, match=r"a machine that can submit jobs: there is no sbatch, srun, .* here"):
        run()


@pytest.mark.parametrize(("wait", "minutes"), [(5, 5), (None, 30)])
@pytest.mark.parametrize("reason", ["PartitionNodeLimit", "QOSMaxCpuPerJob", "InvalidAccount"])
def test_a_job_that_never_starts(fake, monkeypatch, wait, minutes, reason):
    fake.says(f"PENDING Reason={reason}")
    monkeypatch.setattr(slurm.time, "monotonic", iter(range(0, 10**6, 30)).__next__)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    with pytest.raises(UserError, match=rf"^job 7 did not start within {minutes} minutes \(PENDING: {reason}\); ask"):
        run(wait=wait)
    assert fake.read("cancelled") == "7\n" and not fake.read("queue")


def test_a_job_for_which_there_is_no_room_waits(fake, monkeypatch):
    fake.says(*["PENDING Reason=Resources"] * 200, "RUNNING NodeList=n1", "COMPLETED")
    monkeypatch.setattr(slurm.time, "monotonic", iter(range(0, 10**6, 30)).__next__)
    monkeypatch.setattr(slurm.time, "sleep", lambda seconds: None)
    assert run() == 0


def test_a_job_on_a_full_disk(fake, monkeypatch):
    fake.does("true")
    fake.says("RUNNING NodeList=n1", "FAILED")
    monkeypatch.setattr(slurm.shutil, "disk_usage", lambda folder: Space(free=0))
    with pytest.raises(UserError, match=r"^job 7 ended without a word: disk full: .*0 MiB free"):
        run()


@pytest.mark.parametrize("state", ["PENDING", "REQUEUE_HOLD"])
def test_a_job_that_slurm_holds(fake, state):
    fake.says(f"{state} Reason=launch_failed_requeued_held")
    with pytest.raises(UserError, match=rf"^job 7 does not start \({state}: launch_failed_requeued_held\)"):
        run()
    assert fake.read("cancelled") == "7\n"


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_cancels_the_job(fake, monkeypatch, stop):
    def look(number):
        raise stop

    monkeypatch.setattr(slurm, "_look", look)
    with pytest.raises(stop):
        run()
    assert fake.read("cancelled") == "7\n" and not fake.read("queue")


def test_an_interrupt_while_slurm_is_silent(fake, monkeypatch, capfd):
    def look(number):
        fake.write("silent", "no controller")
        raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "_look", look)
    with pytest.raises(KeyboardInterrupt):
        run()
    assert "SLURM does not answer (no controller); a job distill@a-1-" in capfd.readouterr().err


def test_a_job_left_behind_is_cancelled_first(fake, capfd):
    fake.write("queue", "5\n")
    assert run() == 0
    assert fake.read("cancelled") == "5\n"
    assert "job 5, left in the queue by an earlier run, is cancelled\n" in capfd.readouterr().err
    asked = fake.read("asked")  # by name and user: another's job is not found
    assert f"--user={os.getuid()}" in asked and "--name=distill@a-1-" in asked


def test_slurm_is_silent_for_a_while(fake, capfd):
    fake.says("RUNNING NodeList=n1", "SILENT", "SILENT", "COMPLETED")
    assert run() == 0
    assert capfd.readouterr().err.count("is asked again") == 1


def test_slurm_is_silent_for_long(fake, monkeypatch):
    fake.says("RUNNING", "SILENT")
    monkeypatch.setattr(slurm, "PATIENCE", 0.0)
    with pytest.raises(NoAnswer, match=r"Unable to contact slurm controller\) for 0 minutes, job 7 may still run"):
        run()


def test_slurm_is_silent_from_the_start(fake):
    fake.write("silent", "Unable to contact slurm controller")
    with pytest.raises(NoAnswer, match=r"^SLURM does not answer \(Unable to contact slurm controller\)$"):
        run()


def test_at_the_end_of_its_time_a_stage_without_checkpoint_is_not_begun_again():
    kept = {stage: Work(stage, (), None).checkpoint() is not None for stage in ("distill", "estimate_fisher")}
    assert kept == {"distill": True, "estimate_fisher": False}
    assert set(RESUMED) < set(JOBS)
