"""Models on the validation lists: how good they are while they train, and the scores from which choices are made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fisher_ld.batches.lists import read_lists, take
from fisher_ld.batches.prompts import Prompts
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.models.scorer import Scorer, score_lists


def validator(scorer: Scorer, processed: Path, prompts: Prompts, users: int, seed: int) -> Callable[[], float]:
    """Gives the mean NDCG@10 of `scorer`, as it then is, on the validation lists of a seeded few users."""
    lists = read_lists(processed, "val")
    lists = take(lists, np.sort(np.random.default_rng(seed).permutation(len(lists))[:users]))

    def validate() -> float:
        scores = score_lists(scorer, lists, prompts, "validating")
        return float(ndcg(rank(scores, lists.positive), 10).mean())

    return validate


def score_validation(scorer: Scorer, processed: Path, prompts: Prompts, path: Path) -> None:
    """Scores all validation lists and writes them to the file `path`."""
    lists = read_lists(processed, "val")
    write_scores(path, range(len(lists)), score_lists(scorer, lists, prompts, "scoring the validation lists"))
