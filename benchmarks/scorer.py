"""What each shortcut of the scorer is worth: the same rows with one of them left out.

    python -m benchmarks.scorer [--data movielens-100k] [--layers 4] [--users 24]    after `dvc repro adapt_teacher`

Training (steps of AdamW on training windows, one row each) and scoring (test lists, `cluster.batch_users` in a
batch), in the precision of params.yaml, with other users in each repeat, as new lengths are part of what costs time.
The ways take turns in one process; a ratio is of the sums over all repeats.
"""

from __future__ import annotations

import argparse
import contextlib
import time
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import torch

from fisher_ld.batches.lists import Lists, read_lists, take
from fisher_ld.batches.prompts import saved_prompts
from fisher_ld.config.params import load_params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.models import scorer as scorer_module
from fisher_ld.models.scorer import Scorer, score_lists

CAST, ROWS = "weights cast once", "the prompts' rows of the embedding alone"
WITHOUT: dict[str, Callable[[], contextlib.AbstractContextManager]] = {
    "nothing": contextlib.nullcontext,
    "rows of like lengths (padded to a multiple)": lambda: patch("fisher_ld.batches.packing.MULTIPLE", 1),
    "the last layer at decision tokens alone": lambda: patch.object(
        scorer_module, "only_at_decisions", lambda layer, decision: contextlib.nullcontext()
    ),
    ROWS: lambda: patch.object(Scorer, "only_rows", lambda self, prompts: contextlib.nullcontext()),
    CAST: lambda: patch.object(Scorer, "inference", lambda self: torch.inference_mode()),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="default: the first of run.data")
    parser.add_argument("--layers", type=int, default=4, help="how many of the teacher's first layers")
    parser.add_argument("--users", type=int, default=24)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    params = load_params("params.yaml", {})
    paths = DataPaths(options.data or params.run.data[0])
    teacher, processed = paths.model("teacher", params.run.teacher_seeds[0]), paths.processed
    prompts = saved_prompts(teacher, processed)
    scorer = (
        Scorer.load(teacher).keep(range(options.layers)).on(setup(params.cluster, params.teacher.precision, seed=0))
    )
    scorer.requires_grad_(False)

    def some(name: str, seed: int) -> Lists:
        lists = read_lists(processed, name)
        windows = lists.windows()
        chosen = np.random.default_rng(seed).permutation(len(windows))[: options.users]
        return take(lists, np.sort(np.concatenate([windows[i] for i in chosen])))

    def training(seed: int) -> None:
        labelled = some("labelled", seed)
        scorer.requires_grad_(True)
        with scorer.only_rows(prompts):
            optimizer = torch.optim.AdamW(scorer.parameters(), lr=0.0, fused=True)
            for window in labelled.windows():
                scorer(scorer.pack(labelled, [window], prompts)).logits.sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        scorer.requires_grad_(False)

    def scoring(seed: int) -> None:
        score_lists(scorer, some("test_matched", seed), prompts)

    for task, other in ((training, CAST), (scoring, ROWS)):
        ways = {name: way for name, way in WITHOUT.items() if name != other}
        seconds = dict.fromkeys(ways, 0.0)
        for repeat in range(options.repeats + 1):
            for name, without in ways.items():
                with without():
                    began = time.perf_counter()
                    task(repeat)
                if repeat:  # the first round warms up
                    seconds[name] += time.perf_counter() - began
        for name in list(ways)[1:]:
            print(
                f"{task.__name__}, {options.layers} layers: without {name} {seconds[name] / seconds['nothing']:.2f} x"
            )


if __name__ == "__main__":
    main()
