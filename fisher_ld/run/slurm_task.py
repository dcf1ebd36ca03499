"""What runs within a job of SLURM, in each of its tasks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from submitit import JobEnvironment
from submitit.core.utils import DelayedSubmission
from submitit.helpers import Checkpointable, TorchDistributedEnvironment

from fisher_ld.run.launch import JOBS, RESUMED, STARTED

UNQUEUED = 128 + signal.SIGUSR2  # exit code of a task whose job had to stop and could not be queued again


def code_file(folder: Path, rank: int) -> Path:
    """Where a task leaves the exit code of its stage."""
    return folder / f"{rank}.code"


@dataclass(frozen=True)
class Work(Checkpointable):
    """What each task of a job does: it runs the stage, leaves the exit code in the job's folder, and ends with it.
    Near the end of the job's time submitit queues the job again, and the stage goes on from its checkpoint. One that
    keeps none would come to the same end again: its job ends."""

    stage: str
    names: tuple[str, ...]
    threads: int | None

    def checkpoint(self, *args: Any, **kwargs: Any) -> DelayedSubmission | None:  # pyright: ignore - as submitit allows
        return super().checkpoint(*args, **kwargs) if self.stage not in JOBS or self.stage in RESUMED else None

    def __call__(self) -> None:
        ranks = TorchDistributedEnvironment().export(set_cuda_visible_devices=False, overwrite=True)
        cpus = os.environ.get("SLURM_CPUS_PER_TASK")
        share = int(cpus) if cpus else int(os.environ.get("SLURM_CPUS_ON_NODE", 1)) // ranks.local_world_size
        threads = {"OMP_NUM_THREADS": str(self.threads or max(1, share))}
        job = JobEnvironment()
        record = code_file(job.paths.folder, job.global_rank)
        record.unlink(missing_ok=True)  # of the job before it was queued again
        # SLURM sends its signals to all processes of a task: SIGUSR2 is for submitit alone, SIGTERM for the stage
        process = subprocess.Popen(
            [sys.executable, "-m", f"stages.{self.stage}", *self.names],
            env=os.environ | threads | {STARTED: "slurm", "PYTHONUNBUFFERED": "1"},
            preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
        )
        try:
            code = process.wait()
        except SystemExit:  # queued again
            process.terminate()
            process.wait()
            raise
        except Exception:  # submitit's handler of SIGUSR2 alone raises here
            process.terminate()
            process.wait()
            code = UNQUEUED
        code = code if code >= 0 else 128 - code
        record.write_text(str(code))
        if code:
            sys.exit(code)
