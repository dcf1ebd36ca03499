"""Where the work of a cell is done: in this process, in several on this machine (torchrun), or in a job of SLURM.

The process that DVC starts checks everything first and then waits; the processes that it starts run the same command
again, and know by their environment that they are the work itself.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence

from fisher_ld.config.params import Place
from fisher_ld.core.compute import usable_threads
from fisher_ld.core.errors import UserError

RANKED = (
    "adapt_teacher", "adapt_shallow", "cache_teacher", "cache_signals", "estimate_fisher", "choose_strength", "distill",
    "score_zero_shot", "score_teacher", "score_shallow", "score_start", "score_student",
)  # fmt: skip
ONE_PROCESS = ("embed_items", "start_student", "efficiency")  # run a model, and gain nothing from a second
JOBS = (*RANKED, *ONE_PROCESS)
RESUMED = (  # from a checkpoint
    "adapt_teacher", "adapt_shallow", "cache_teacher", "cache_signals", "choose_strength", "distill",
)  # fmt: skip
AGAIN = "Run the same command again; it goes on from its checkpoint"
STARTED = "FISHER_LD_STARTED"  # set in the environment of processes that a launcher started


def ranks(stage: str, place: Place) -> int:
    """The processes that work on a cell of a stage."""
    many = place.launcher != "local" and stage in RANKED
    return place.processes * (place.nodes if place.launcher == "slurm" else 1) if many else 1


def elsewhere(stage: str, place: Place) -> bool:
    """Whether the work is done by other processes than this one."""
    if STARTED in os.environ:
        return False
    if place.launcher == "slurm":
        return stage in JOBS
    return ranks(stage, place) > 1


def launch(cell: str, stage: str, names: Sequence[str], place: Place) -> int:
    """Has the work of a cell done and waits for its end: the exit code. What the processes say is said here."""
    if place.launcher == "slurm":
        from fisher_ld.run.slurm import run_job

        return run_job(cell, stage, names, place, ranks(stage, place))
    return _torchrun(stage, names, place)


def _torchrun(stage: str, names: Sequence[str], place: Place) -> int:
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    if place.device == "cuda":
        import torch

        if torch.cuda.device_count() < place.processes:
            raise UserError(
                f"cluster.processes: {place.processes} were asked for, one for each GPU, and torch sees "
                f"{torch.cuda.device_count()} here"
            )
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # what failed says it itself
    os.environ[STARTED] = "torchrun"
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable_threads(place.threads) // place.processes))
    config = LaunchConfig(
        min_nodes=1, max_nodes=1, nproc_per_node=place.processes, rdzv_backend="c10d", rdzv_endpoint="localhost:0",
        max_restarts=0, monitor_interval=0.5, run_id=str(os.getpid()),
    )  # fmt: skip
    try:
        elastic_launch(config, sys.executable)("-m", f"stages.{stage}", *names)
    except SignalException as error:
        if error.sigval == signal.SIGINT:
            raise KeyboardInterrupt from None
        sys.exit(128 + error.sigval)
    except ChildFailedError as error:
        code = error.get_first_failure()[1].exitcode
        if code < 0:
            raise UserError(
                f"signal {-code} ended one of {place.processes} processes, as when memory was short. {AGAIN}"
            ) from None
        return code
    return 0
