"""The validation that teacher and students share: mean NDCG@10 on the stored validation lists of a seeded few users."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from fisher_ld.data.lists import read_lists, take
from fisher_ld.data.prompts import Prompts
from fisher_ld.evaluation.ranking import ranking_metrics
from fisher_ld.models.scorer import Scorer, score_lists


def validator(
    scorer: Scorer,
    processed: Path,
    prompts: Prompts,
    users: int,
    seed: int,
) -> Callable[[], float]:
    lists = read_lists(processed, "val")
    lists = take(lists, np.sort(np.random.default_rng(seed).permutation(len(lists))[:users]))

    def validate() -> float:
        scores = score_lists(scorer, lists, prompts, "validating")
        return float(ranking_metrics(scores, lists.positive)["ndcg_10"].mean())

    return validate
