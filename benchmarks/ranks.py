"""Examples a second of two processes against one, each with one core and the same batch: python -m benchmarks.ranks

After `dvc repro`. The teacher keeps its first layers alone, for time. The two ways alternate.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
import torch

from fisher_ld.batches.lists import read_lists, read_taught, take
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.config.paths import DataPaths, start
from fisher_ld.core import ranks
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import keep_freed_memory
from fisher_ld.distillation.cache import CacheWriter, TeacherCache, fill
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.signals import Sizes
from fisher_ld.distillation.trainer import distill
from fisher_ld.fisher.estimate import estimate
from fisher_ld.fisher.sample import Sample
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.run.stage import read_params
from fisher_ld.training.loop import Training

LAYERS, LISTS, WINDOWS, EXAMPLES, STEPS = 6, 60, 24, 64, 40  # of the teacher; of each process


def parts(data: str, folder: Path) -> dict[str, Callable[[], int]]:
    """Name -> work of all processes together, which gives the examples that it reads."""
    params, paths, many = read_params(), DataPaths(data), ranks.world()
    home = paths.model("teacher", 0)
    prompts, teacher = saved_prompts(home, paths.processed), Scorer.load(home)
    teacher.keep(range(LAYERS))
    taught, val = read_taught(paths.processed), read_lists(paths.processed, "val")

    def scoring() -> int:
        lists = take(val, np.arange(LISTS * many))
        score_lists(teacher, lists, prompts)
        return int(lists.offsets[-1])

    def cache() -> int:
        lists = take(taught, np.concatenate(taught.windows()[: WINDOWS * many]))
        sizes, examples = Sizes(LAYERS, teacher.model.config.hidden_size, 1), int(lists.offsets[-1])
        place = folder / f"cache-{time.time()}"
        writer = CacheWriter(place, ["logits", "states"], examples, sizes, 8192, {}) if ranks.leader() else None
        fill(writer, ["logits", "states"], teacher, lists, prompts)
        return examples

    def fisher() -> int:
        sample = Sample("transfer", taught, np.arange(EXAMPLES * many))
        return estimate(teacher, prompts, sample, "adapted", 8)["example"].n_unique()

    def distillation() -> int:
        own = params.distill.model_copy(
            update={"steps": STEPS, "batch_users": many, "transfer_users": many, "eval_every": STEPS}
        )
        begin = paths.model(start(params.run.students[0]))
        student, read = Scorer.load(begin), saved_prompts(begin, paths.processed)
        whole = len(student.layers)
        signals = TeacherCache.open(paths.cache, ["logits", "states"])
        pairs = [(1 + layer, 1 + layer * whole // signals.layers) for layer in range(signals.layers)]
        weights = [1 / signals.layers] * signals.layers
        weighting = Weighting(pairs, weights, [1.0] * signals.layers, 0.05, 10)
        key = {"rank": ranks.world(), "at": ranks.from_leader(time.time)}
        told = Training("distillation", 0, lambda: 0.0, Checkpoint("x", key, folder), lambda values, step: None)
        distill(student, signals, METHODS["uniform"], weighting, taught, read, own, told)
        return STEPS * many

    return {"Fisher": fisher, "cache": cache, "scoring": scoring, "distillation": distillation}


def measure(data: str, folder: Path) -> None:
    ranks.meet("cpu")
    torch.set_num_threads(1)
    keep_freed_memory()
    found = {}
    for name, work in parts(data, folder).items():
        ranks.gather(None)
        began = time.perf_counter()
        examples = work()
        ranks.gather(None)
        found[name] = examples / (time.perf_counter() - began)
    if ranks.leader():
        print(json.dumps(found), flush=True)
    ranks.part()


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="movielens-100k")
    options.add_argument("--repeats", type=int, default=3)
    options.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.measure:
        measure(given.data, given.measure)
        return
    rates: dict[int, list[dict[str, float]]] = {1: [], 2: []}
    for _ in range(given.repeats):
        for processes, found in rates.items():
            with tempfile.TemporaryDirectory() as folder:
                launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
                command = [sys.executable, *launch, "-m", "benchmarks.ranks", "--data", given.data, "--measure", folder]
                done = subprocess.run(
                    command, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.PIPE, text=True, check=True
                )
                found.append(json.loads(done.stdout.splitlines()[-1]))
    print("| part | one process | two | times |\n| --- | ---: | ---: | ---: |")
    for name in rates[1][0]:
        one, two = (median(run[name] for run in rates[processes]) for processes in (1, 2))
        print(f"| {name} | {one:.1f} | {two:.1f} | {two / one:.2f} |")


if __name__ == "__main__":
    main()
