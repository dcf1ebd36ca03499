"""Examples a second, forward and backward: packed rows against plain one-prompt-per-candidate batches of transformers.

    python -m benchmarks.packing [--data movielens-100k] [--users 16]    after `dvc repro adapt_teacher`

The plain batches are sorted by length, so that they hold little padding; threads are the same, the ways alternate, and
the ratio is of the sums over all repeats. All in float32. First lists of one positive and 19 negatives, then windows
of training lists, several positives of one user with their negatives in one row, also against one list a row.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
import torch

from fisher_ld.batches.lists import Lists, read_lists
from fisher_ld.batches.prompts import Prompts, saved_prompts
from fisher_ld.config.params import load_params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.compute import Compute
from fisher_ld.fisher.gradient_norms import pad_prompts
from fisher_ld.models.scorer import Scorer


def packed(scorer: Scorer, lists: Lists, windows: list[np.ndarray], prompts: Prompts) -> tuple[float, int]:
    """Seconds and examples of one pass over `windows`, one packed row each."""
    began, examples = time.perf_counter(), 0
    for window in windows:
        batch = scorer.pack(lists, [window], prompts)
        scorer(batch).logits.sum().backward()
        examples += len(batch.labels)
    return time.perf_counter() - began, examples


def plain(scorer: Scorer, lists: Lists, windows: list[np.ndarray], prompts: Prompts, size: int) -> float:
    """Seconds of the same examples as prompts of their own, `size` in a batch."""
    examples = lists.examples(np.concatenate(windows))
    rows = sorted((prompts.example(lists, int(example)) for example in examples), key=len)
    began = time.perf_counter()
    for begin in range(0, len(rows), size):
        batch = pad_prompts(rows[begin : begin + size])
        hidden = scorer.body(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)[0]
        no, yes = scorer.model.score(hidden[torch.arange(len(hidden)), batch.decision]).unbind(-1)
        (yes - no).sum().backward()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="default: the first of run.data")
    parser.add_argument("--users", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()

    run = load_params("params.yaml", {}).run
    paths = DataPaths(options.data or run.data[0])
    teacher, processed = paths.model("teacher", run.teacher_seeds[0]), paths.processed
    scorer = Scorer.load(teacher).on(Compute(torch.device("cpu"), bf16=False))
    prompts = saved_prompts(teacher, processed)
    for name in ("test_matched", "labelled"):
        lists = read_lists(processed, name)
        windows = [lists.windows()[i] for i in np.random.default_rng(0).permutation(len(lists.windows()))]
        windows = windows[: options.users]
        alone = [np.array([number]) for window in windows for number in window]
        passes, examples = [], 0
        for _ in range(options.repeats + 1):
            ours, examples = packed(scorer, lists, windows, prompts)
            single, _ = packed(scorer, lists, alone, prompts)
            passes.append((ours, single, plain(scorer, lists, windows, prompts, size=20)))
        ours, single, theirs = np.sum(passes[1:], 0)  # the first one warms up
        print(f"{name}: {examples} examples in {len(windows)} rows, {len(alone)} lists")
        print(
            f"  {theirs / ours:.1f} times as fast as plain batches, {single / ours:.1f} times as fast as one list a row"
        )


if __name__ == "__main__":
    main()
