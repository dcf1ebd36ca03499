"""Teacher and students on the stored lists, scored alike: for validation while they train, and for the test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fisher_ld.batches.lists import Lists, concat, read_lists, take
from fisher_ld.batches.prompts import Prompts
from fisher_ld.evaluation.ranking import ranking_metrics
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.models.scorer import Scorer, score_lists


def validator(scorer: Scorer, processed: Path, prompts: Prompts, users: int, seed: int) -> Callable[[], float]:
    """Gives the mean NDCG@10 of `scorer`, as it then is, on the validation lists of a seeded few users."""
    lists = read_lists(processed, "val")
    lists = take(lists, np.sort(np.random.default_rng(seed).permutation(len(lists))[:users]))

    def validate() -> float:
        scores = score_lists(scorer, lists, prompts, "validating")
        return float(ranking_metrics(scores, lists.positive)["ndcg_10"].mean())

    return validate


def score_test_lists(
    scorer: Scorer,
    families: Mapping[str, Lists],
    numbers: Mapping[str, np.ndarray],
    prompts: Prompts,
    label: str,
    files: Mapping[str, Path],
) -> None:
    """Scores the lists `numbers` of both families, packed together, and writes one file a family."""
    parts = {family: take(lists, numbers[family]) for family, lists in families.items()}
    scores = score_lists(scorer, concat(*parts.values()), prompts, label)
    for family, part in parts.items():
        write_scores(files[family], numbers[family], scores[: len(part)])
        scores = scores[len(part) :]
