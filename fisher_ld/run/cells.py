"""The cells of a run, several at once: `python -m fisher_ld.run.cells` does what `dvc repro --keep-going` does, in less
time where a cell of a student does not fill the machine.

Each cell is a `dvc repro --single-item` of its own, begun when all that it depends on is done. With `-S KEY=VALUE`, as
`dvc exp run` takes it, params.yaml is changed first, and the run is saved as an experiment in the end.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from threading import Thread

import psutil

from fisher_ld.config.overrides import set_params
from fisher_ld.config.params import Cluster
from fisher_ld.config.paths import FURTHER, PARAMS
from fisher_ld.core.compute import usable_threads
from fisher_ld.core.errors import UserError, told
from fisher_ld.run.stage import read_params, terminate

# They run the teacher, which uses every core, or measure time.
ALONE = (
    "embed_items", "adapt_teacher", "adapt_shallow", "cache_teacher", "cache_signals", "estimate_fisher",
    "score_zero_shot", "score_teacher", "score_shallow", "efficiency",
)  # fmt: skip
CHECK, TEACHER = "check_params", "download_teacher"
LOCK = "dvc.lock"
NOISE = "Updating lock file"  # from here on DVC says how to commit what it did


def stage_of(cell: str) -> str:
    """Of the cell of a further method the stage that it runs."""
    return cell.split("@")[0].removesuffix(FURTHER)


def alone_here(cluster: Cluster) -> Callable[[str], bool]:
    """Whether a cell must be the only one on this machine; none that is a job of SLURM must."""
    stages = {stage for stage in ALONE if cluster.of(stage).launcher != "slurm"}
    return lambda cell: stage_of(cell) in stages


def outdated() -> dict[str, set[str]]:
    """The cells that DVC would look at: those that changed and all that depend on them, in an order in which they can
    run, each with those of them that it needs done. Raises UserError where DVC cannot work."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo
    from dvc.utils.strictyaml import YAMLSyntaxError, YAMLValidationError

    try:
        with Repo() as repo:
            graph = repo.index.graph
            needs = {stage.addressing: {needed.addressing for needed in graph.successors(stage)} for stage in graph}
            changed = set(repo.status())
    except DvcException as error:
        if isinstance(error, YAMLSyntaxError | YAMLValidationError) and LOCK in str(error):
            raise UserError(
                f"{error}, as a kill while DVC wrote it leaves it: remove {LOCK} and run this again; what is done "
                "comes back from DVC's cache"
            ) from error
        if isinstance(error, LockError):
            raise UserError(f"another run is at work in this folder, or was killed there. DVC says: {error}") from error
        raise UserError(
            f"DVC: {error}. It needs a clone by git, or: git init && git add -A && git commit -m start"
        ) from error
    found: dict[str, set[str]] = {}
    # what does not fit the teacher is said once, before any cell that reads it
    check = {CHECK} & needs.keys()
    waits = {c: needed | check if TEACHER in needed and c != CHECK else needed for c, needed in needs.items()}
    for cell in TopologicalSorter(waits).static_order():
        if cell in changed or needs[cell] & found.keys():
            found[cell] = waits[cell] & found.keys()
    return found


@dataclass
class Outcome:
    failed: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)  # not begun, since they need one that failed


def work_through(
    needs: Mapping[str, set[str]],
    at_once: int,
    alone: Callable[[str], bool],
    run: Callable[[str], bool],
    stop: Callable[[], None],
) -> Outcome:
    """Runs every cell of `needs` when those that it needs are done, up to `at_once` together, but the `alone` ones by
    themselves. `run` says whether a cell went well; one that did not takes with it those that need it, no others.
    `stop` ends what runs, when this is interrupted."""
    waiting, running, done, outcome = list(needs), dict[Future[bool], str](), set[str](), Outcome()
    with ThreadPoolExecutor(at_once) as pool:
        try:
            while waiting or running:
                lost = [cell for cell in waiting if needs[cell] & {*outcome.failed, *outcome.left}]
                outcome.left += lost
                waiting = [cell for cell in waiting if cell not in lost]
                for cell in [cell for cell in waiting if needs[cell] <= done]:
                    if len(running) == at_once or any(map(alone, running.values())):
                        break
                    if not (running and alone(cell)):
                        waiting.remove(cell)
                        running[pool.submit(run, cell)] = cell
                # woken to see Ctrl-C: where polars was at work, no signal ends a wait
                for future in wait(running, timeout=1.0, return_when=FIRST_COMPLETED).done:
                    cell = running.pop(future)
                    done.add(cell) if future.result() else outcome.failed.append(cell)
        except BaseException:
            stop()
            raise
    return outcome


class Cells:
    """Cells as processes, whose words go to standard output with the cell's name before them. Where `cluster.threads`
    is null, an `alone` one has all `threads`, and the others share them."""

    def __init__(self, threads: int, at_once: int, alone: Callable[[str], bool]):
        self.threads, self.at_once, self.alone = threads, at_once, alone
        self.processes: set[subprocess.Popen[str]] = set()
        self.interrupted: set[int] = set()  # processes that were interrupted, each once
        self.stopping = False

    def run(self, cell: str) -> bool:
        threads = self.threads if self.alone(cell) else max(1, self.threads // self.at_once)
        process = subprocess.Popen(
            [sys.executable, "-m", "dvc", "--wait-for-lock", "repro", "--single-item", cell],
            env=os.environ | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True,
        )  # fmt: skip
        self.processes.add(process)
        if self.stopping:  # since it was asked for
            Thread(target=self.interrupt).start()
        told, unheard = True, None
        for line in process.stdout or ():  # to its end, or the process would wait to be read
            told = told and not line.startswith(NOISE)
            if told and line.strip() and unheard is None:
                try:
                    print(f"{cell} | {line}", end="", flush=True)
                except OSError as error:
                    unheard = error
                    Thread(target=self.interrupt).start()  # its stage may not have begun
        self.processes.remove(process)
        code = process.wait()
        if unheard is not None:
            raise unheard
        return code == 0

    def interrupt(self) -> None:
        """As Ctrl-C would, of the stages alone, which go on from their checkpoints: DVC may be writing dvc.lock, and
        ends by itself."""
        self.stopping = True
        while running := list(self.processes):
            for process in running:
                for own in {*_below(process.pid)} - self.interrupted:
                    self.interrupted.add(own)
                    with suppress(ProcessLookupError):
                        os.kill(own, signal.SIGINT)
            time.sleep(0.1)


def _below(leader: int) -> list[int]:
    """The processes of a group but its leader; none where one of them ends meanwhile."""
    with suppress(psutil.NoSuchProcess, ProcessLookupError):
        children = psutil.Process(leader).children(recursive=True)
        return [child.pid for child in children if os.getpgid(child.pid) == leader]
    return []


def _check_identity() -> None:
    """Raises UserError where `dvc exp save` would find no name for its commit."""
    command = ["git", "-c", "user.useConfigOnly=true", "var", "GIT_COMMITTER_IDENT"]
    if shutil.which("git") and subprocess.run(command, capture_output=True).returncode:
        raise UserError(
            "-S saves an experiment in the end, and git does not know whose: git config --global user.name NAME, and "
            "git config --global user.email ADDRESS"
        )


def _lines(profile: Path) -> list[str]:
    """What it sets; blank lines and comments are left out. Raises UserError."""
    if not profile.is_file():
        raise UserError(f"{profile}: no such file; expected one with lines of KEY=VALUE, as those in profiles/")
    lines = map(str.strip, profile.read_text(encoding="utf-8").splitlines())
    found = [line for line in lines if line and not line.startswith("#")]
    for line in found:
        if "=" not in line:
            raise UserError(f"{profile}: expected lines of KEY=VALUE, got {line!r}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-S", "--set-param", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--profile", type=Path, metavar="FILE", help="KEY=VALUE lines, each as with -S; before those")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, terminate)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, terminate)
    try:
        overrides = [*(_lines(options.profile) if options.profile else []), *options.set_param]
        if overrides:
            _check_identity()
            set_params(PARAMS, overrides)
        cluster = read_params().cluster
        started, needs = time.monotonic(), outdated()
    except Exception as error:
        if message := told(error):
            sys.exit(message)
        raise
    alone = alone_here(cluster)
    cells = Cells(usable_threads(cluster.threads), cluster.cells, alone)
    try:
        outcome = work_through(needs, cluster.cells, alone, cells.run, cells.interrupt)
    except KeyboardInterrupt:
        sys.exit(
            "interrupted. What is done stays, and what ran goes on from its checkpoint: run the same command again."
        )
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left of it would fail once more
        sys.exit(
            f"stopped: what the stages say cannot be written ({error.strerror}). What is done stays: run the same "
            "command again, with a reader or a file that has room."
        )
    done = len(needs) - len(outcome.failed) - len(outcome.left)
    print(f"{done} of {len(needs)} cells done in {(time.monotonic() - started) / 60:.1f} minutes")
    if outcome.failed:
        stages = dict.fromkeys(map(stage_of, outcome.left))
        left = f"{len(outcome.left)} that need them were not begun ({', '.join(stages)}). " if stages else ""
        sys.exit(
            f"failed: {', '.join(outcome.failed)}; why stands above in the lines that begin so. {left}What is done "
            "stays; put it right and run the same command again."
        )
    if overrides and subprocess.run([sys.executable, "-m", "dvc", "exp", "save"]).returncode:
        sys.exit("the cells are done, but not saved as an experiment; why stands above")


if __name__ == "__main__":
    main()
