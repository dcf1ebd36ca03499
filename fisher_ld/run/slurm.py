"""The work of a cell as one job of SLURM (submitit), and the wait for its end on the machine that submitted it.

SLURM is asked about the job by scontrol, since without accounting nothing else knows of a job that failed. A job is
known by its name, which is the cell's in this folder: one that a killed process left behind is found by it.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import TextIO

from submitit import SlurmExecutor
from submitit.core.utils import FailedJobError, FailedSubmissionError

from fisher_ld.config.params import Place
from fisher_ld.core.errors import Unavailable, UserError, disk_full_message
from fisher_ld.core.locks import work_root
from fisher_ld.core.progress import say
from fisher_ld.run.launch import AGAIN
from fisher_ld.run.slurm_task import UNQUEUED, Work, code_file

TOOLS = ("sbatch", "srun", "scontrol", "squeue", "scancel")
REQUEUES = 1000  # submitit's limit, which counts each end of a job's time
PATIENCE = 30 * 60.0  # seconds without an answer of SLURM
LEAVING = 5 * 60.0  # seconds in which a cancelled job leaves the queue
SPACE = 2**20  # bytes, with fewer of which a disk is full
SHORTEST, LONGEST = 2.0, 30.0  # seconds between two questions, the more the longer a job takes
ENDED = (
    "COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "BOOT_FAIL", "DEADLINE",
)  # fmt: skip
HOLDS = ("REQUEUE_HOLD", "SPECIAL_EXIT")
HELD = re.compile("requeued?_held|requeued_in_held|max_requeue|NeverSatisfied")  # reasons that no time takes away
LIMITED = re.compile(  # those that seldom pass: of nodes that are down they do
    r"BadConstraints|Invalid(Account|QOS)|JobHeld|Partition(Node|Time)Limit|(QOS|Assoc)\w*Max\w+PerJob"
)
CHATTER = ("srun: ", "slurmstepd")  # what they say of an end is said here in a sentence


class NoAnswer(UserError):
    """SLURM does not say, or do, what it was asked."""


class _Executor(SlurmExecutor):
    """submitit's, which knows time in minutes only, and takes 5 of them where none is given."""

    time: str | None = None

    def _make_submission_file_text(self, command: str, uid: str) -> str:
        self.parameters["time"] = self.time
        return super()._make_submission_file_text(command, uid)


@dataclass
class _Log:
    """A file that grows, shown line by line."""

    path: Path
    to: TextIO
    position: int = 0

    def show(self, last: bool = False) -> None:
        if not self.path.exists():
            return
        with open(self.path, "rb") as stream:
            stream.seek(self.position)
            new = stream.read()
        if not last:
            new = new[: new.rfind(b"\n") + 1]
        self.position += len(new)
        for line in new.decode(errors="replace").splitlines():
            if not line.startswith(CHATTER):
                print(line, file=self.to, flush=True)


@dataclass
class _Job:
    number: str
    folder: Path
    tasks: int
    logs: list[_Log]

    def __str__(self) -> str:
        return f"job {self.number}"

    def show(self, last: bool = False) -> None:
        for log in self.logs:
            log.show(last)

    def errors(self, task: int) -> list[str]:
        """The lines that a task wrote to standard error."""
        path = self.folder / f"{self.number}_{task}_log.err"
        return path.read_text(errors="replace").splitlines() if path.exists() else []

    def show_others(self) -> None:
        """What tasks but the first say of an error, without what the first said as well."""
        shown = self.errors(0)
        for task in range(1, self.tasks):
            for line in self.errors(task):
                if line not in shown and not line.startswith(CHATTER):
                    say(f"task {task}: {line}")

    def codes(self) -> list[int]:
        """Of the tasks that ended by themselves, their exit codes."""
        for _ in range(10):  # a shared disk may show a file late
            files = [code_file(self.folder, task) for task in range(self.tasks)]
            if codes := [int(text) for file in files if file.exists() and (text := file.read_text())]:
                return codes
            time.sleep(0.5)
        return []


def run_job(cell: str, stage: str, names: Sequence[str], place: Place, ranks: int) -> int:
    """Has a cell's work done by `ranks` processes in one job of SLURM and waits for its end, through time limits and
    preemption: the exit code of the stage. What the stage says is said here. A job of the cell that an earlier process
    left in the queue is cancelled first. However this ends, no job of the cell is left in the queue.

    Raises Unavailable where no job can be submitted from this machine, and UserError where SLURM refuses the job, or
    the job ends otherwise than by the stage's end."""
    if missing := [tool for tool in TOOLS if shutil.which(tool) is None]:
        raise Unavailable(
            f"cluster.launcher slurm needs a machine that can submit jobs: there is no {', '.join(missing)} here. Run "
            "it on a login node of the cluster, or set cluster.launcher to local or torchrun"
        )
    name = f"{cell}-{hashlib.sha256(str(Path.cwd()).encode()).hexdigest()[:12]}"
    for number in _cancel(name):
        say(f"job {number}, left in the queue by an earlier run, is cancelled")
    folder = work_root().absolute() / "work" / "slurm" / name
    shutil.rmtree(folder, ignore_errors=True)
    try:
        with _uninterrupted():
            job = _submit(Work(stage, tuple(names), place.threads), name, folder, place, ranks)
        code = _ending(job, _wait(job, place), place)
    except BaseException as error:
        try:
            for number in _cancel(name):
                say(f"job {number} is cancelled")
        except NoAnswer as silence:
            if not isinstance(error, NoAnswer):
                say(f"{silence}; a job {name} may be left in the queue, which the next run cancels")
        raise
    if code == 0:
        shutil.rmtree(folder, ignore_errors=True)
    return code


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Holds Ctrl-C and SIGTERM back: a job that is being submitted has no number yet by which it could be cancelled."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _submit(work: Work, name: str, folder: Path, place: Place, ranks: int) -> _Job:
    executor = _Executor(folder, max_num_timeout=REQUEUES)
    executor.time = place.time
    on_node = place.processes if ranks > 1 else 1
    # --option=value, or --option alone
    options = [re.split("[= ]", option.removeprefix("--"), maxsplit=1) for option in place.sbatch]
    more = {key.replace("-", "_"): value[0] if value else True for key, *value in options}
    if "no_requeue" not in more:
        more["requeue"] = True
    if work.stage == "efficiency":  # which measures time
        more["exclusive"] = True
    executor.update_parameters(
        job_name=name, nodes=place.nodes if ranks > 1 else 1, ntasks_per_node=on_node, cpus_per_task=place.cpus,
        gpus_per_node=on_node if place.device == "cuda" else None, mem=place.memory, partition=place.partition,
        account=place.account, qos=place.qos, wckey=None, additional_parameters=more,
        setup=["export SUBMITIT_LOG_LEVEL=CRITICAL", *place.setup],
        # since SLURM 22.05 srun does not take the cpus of sbatch
        srun_args=["--kill-on-bad-exit=1", *([f"--cpus-per-task={place.cpus}"] if place.cpus else [])],
    )  # fmt: skip
    try:
        with redirect_stderr(StringIO()):  # on which submitit repeats sbatch
            paths = executor.submit(work).paths
    except (FailedJobError, FailedSubmissionError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        text = "; ".join(line.removeprefix("sbatch: ").removeprefix("error: ") for line in str(error).splitlines())
        raise UserError(f"sbatch refused the job ({text}). Change cluster in params.yaml to what it can give") from None
    logs = [_Log(paths.stdout, sys.stdout), _Log(paths.stderr, sys.stderr)]
    return _Job(str(paths.job_id), folder, ranks, logs)


def _ask(*command: str) -> str:
    """Raises NoAnswer."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except subprocess.TimeoutExpired:
        raise NoAnswer(f"SLURM does not answer ({command[0]} waited for a minute)") from None
    if done.returncode:
        raise NoAnswer(f"SLURM does not answer ({' '.join(done.stderr.split()) or command[0]})")
    return done.stdout


def _cancel(name: str) -> list[str]:
    """Cancels this user's jobs of a name and waits until they have left the queue: their numbers. Raises NoAnswer."""
    started, cancelled = time.monotonic(), []
    while numbers := _ask("squeue", "--noheader", f"--user={os.getuid()}", f"--name={name}", "--format=%i").split():
        if new := [number for number in numbers if number not in cancelled]:
            _ask("scancel", *new)
            cancelled += new
        if time.monotonic() - started > LEAVING:
            raise NoAnswer(f"job {', '.join(numbers)} was cancelled {LEAVING / 60:.0f} minutes ago and has not ended")
        time.sleep(1.0)
    return cancelled


def _look(number: str) -> dict[str, str]:
    """What SLURM says of a job; nothing, if it has forgotten it. Raises NoAnswer."""
    try:
        return dict(re.findall(r"(\w+)=(\S*)", _ask("scontrol", "show", "job", number, "-o")))
    except NoAnswer as error:
        if "Invalid job id" in str(error):
            return {}
        raise


def _wait(job: _Job, place: Place) -> dict[str, str]:
    """What SLURM says of the job when it has ended; nothing, if it has forgotten it."""
    begun = answered = queued = time.monotonic()
    ask_at, told, state, silent = 0.0, "", "", False
    while True:
        job.show()
        now = time.monotonic()
        if now >= ask_at or (state == "RUNNING" and code_file(job.folder, 0).exists()):
            ask_at = now + min(LONGEST, max(SHORTEST, (now - begun) / 20))
            try:
                found = _look(job.number)
            except NoAnswer as error:
                if now - answered > PATIENCE:
                    raise NoAnswer(f"{error} for {PATIENCE / 60:.0f} minutes, {job} may still run. {AGAIN}") from None
                if not silent:
                    say(f"{job}: {error}, it is asked again")
                silent = True
            else:
                answered, silent = now, False
                before, state, reason = state, found.get("JobState", "GONE"), found.get("Reason", "None")
                if state == "FAILED" and _queued_again(job, found):
                    continue
                if state in (*ENDED, "GONE"):
                    job.show(last=True)
                    return found
                if state == "PENDING" != before:
                    queued = now
                text = f"{job}: {state}"
                if state in ("PENDING", *HOLDS):
                    _may_wait(job, state, reason, now - queued, place.wait)
                    text += f" ({reason})" if reason != "None" else ""
                    text += ", to go on from its checkpoint" if found.get("Restarts", "0") != "0" else ""
                elif state == "RUNNING":
                    text += f" on {found.get('NodeList')}"
                if text != told and state != "COMPLETING":
                    say(text)
                    told = text
        time.sleep(0.5)


def _queued_again(job: _Job, found: dict[str, str]) -> bool:
    """SLURM tells a job that it preempts to end, and calls it failed if it does so in time: that one is put back."""
    if found.get("PreemptTime", "None") == "None" or set(job.codes()) - {0} != {128 + signal.SIGTERM}:
        return False
    try:
        _ask("scontrol", "requeue", job.number)
    except NoAnswer:
        return False
    say(f"{job} was preempted and waits to go on")
    return True


def _may_wait(job: _Job, state: str, reason: str, seconds: float, minutes: int | None) -> None:
    """Raises UserError."""
    ask = "ask for what the partition has (cluster.nodes, processes, cpus, memory, time)"
    if state in HOLDS or HELD.search(reason):
        raise UserError(f"{job} does not start ({state}: {reason}); {ask}, or ask those who run the cluster")
    if minutes is None and LIMITED.search(reason):
        minutes = int(PATIENCE / 60)
    if minutes is not None and seconds > minutes * 60:
        raise UserError(
            f"{job} did not start within {minutes} minutes ({state}: {reason}); {ask}, or raise cluster.wait"
        )


def _ending(job: _Job, found: dict[str, str], place: Place) -> int:
    """The exit code of the stage. Raises UserError where something else ended the job."""
    state = found.get("JobState", "GONE")
    if state == "COMPLETED":
        return 0
    if state in ("FAILED", "GONE"):
        codes = job.codes()
        if state == "GONE" and codes == [0] * job.tasks:
            return 0
        own = [code for code in codes if 0 < code < 128]  # others were ended by a signal after it
        job.show_others()
        if own:
            return own[0]
        if UNQUEUED in codes:
            raise UserError(
                f"{job} had to stop, at the end of its time or for another job, and was not queued again. Run the "
                "same command again, which goes on from a checkpoint where the stage keeps one; else raise cluster.time"
            )
        if killed := max(codes, default=0):
            number = killed - 128
            why = "memory was short" if number == signal.SIGKILL else "it was preempted or stopped by hand"
            raise UserError(f"signal {number} ended the stage in {job}, as when {why}. {AGAIN}")
        if shutil.disk_usage(job.folder).free < SPACE:
            raise UserError(f"{job} ended without a word: {disk_full_message(job.folder)}")
    where = f"its log is in {os.path.relpath(job.folder)}"
    nodes = found.get("NodeList")
    last = next(filter(str.strip, reversed(job.errors(0))), "no error was printed")
    raise UserError(
        {
            "FAILED": f"{job} failed before the stage began ({last}; exit code {found.get('ExitCode')}); {where}",
            "GONE": f"{job} is gone from SLURM and left no result; {where}. {AGAIN}",
            "CANCELLED": f"{job} was cancelled by someone (scancel). {AGAIN}",
            "NODE_FAIL": f"a node of {job} failed ({nodes}). {AGAIN}",
            "OUT_OF_MEMORY": f"{job} needed more memory than it had ({place.memory or 'what the partition gives'}); "
            "raise cluster.memory or lower cluster.batch_users, then run the same command again",
            "TIMEOUT": f"{job} ran out of its time ({found.get('TimeLimit')}) and was not queued again. {AGAIN}, or "
            "raise cluster.time first",
        }.get(state, f"{job} ended as {state} ({found.get('Reason')}); {where}. {AGAIN}")
    )
