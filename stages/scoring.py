"""Scores of the stored test lists, which teacher and students write alike."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from fisher_ld.data.lists import Lists, concat, take
from fisher_ld.data.prompts import Prompts
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.models.scorer import Scorer, score_lists


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
