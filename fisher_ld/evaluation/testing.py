"""Models on the test lists of all families, packed together: lists of one user and history share a packed row."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from pathlib import Path

import numpy as np
import polars as pl

from fisher_ld.batches.lists import concat, read_tests, take
from fisher_ld.batches.prompts import Prompts, saved_prompts
from fisher_ld.config.paths import DataPaths, for_tests
from fisher_ld.core.compute import Compute
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.models.scorer import Scorer, score_lists


def score_tests(
    scorer: Scorer, data: DataPaths, prompts: Prompts, folder: Path, users: np.ndarray | None = None
) -> None:
    """Writes `folder`/FAMILY.parquet of every family whose lists were written. `users`: score their lists alone."""
    numbers, parts = {}, {}
    for family, lists in read_tests(data).items():
        numbers[family] = np.flatnonzero(np.isin(lists.user, lists.user if users is None else users))
        parts[family] = take(lists, numbers[family])
    scores = score_lists(scorer, reduce(concat, parts.values()), prompts, "scoring the test lists")
    for family, part in parts.items():
        write_scores(folder / f"{family}.parquet", numbers[family], scores[: len(part)])
        scores = scores[len(part) :]


def load_saved(data: DataPaths, model: str, seed: int, compute: Compute) -> tuple[Scorer, Prompts]:
    """A saved model, and its own prompts."""
    folder = data.model(model, seed)
    if "/" in model:  # a student, which fits any device
        compute = replace(compute, shard=False)
    scorer = Scorer.placed(folder, compute, frozen=True)
    return scorer, saved_prompts(folder, data.processed)


def score_saved(data: DataPaths, model: str, seed: int, compute: Compute) -> None:
    """`score_tests` of a saved model."""
    scorer, prompts = load_saved(data, model, seed, compute)
    score_tests(scorer, data, prompts, data.test(model, seed))


def zero_shot_users(processed: Path) -> np.ndarray:
    """Those on whom the teacher is scored before adaptation."""
    users = pl.read_parquet(for_tests(processed) / "users.parquet", columns=["user", "zero_shot"])
    return users.filter("zero_shot")["user"].to_numpy()
