"""Scores of a model on the lists of one file: a Parquet file of list numbers and one score a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fisher_ld.batches.lists import Lists
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path


@dataclass(frozen=True)
class Scores:
    """Scores of the lists with these numbers, ascending; one array a list, in the order of its candidates."""

    numbers: np.ndarray  # (n,)
    values: list[np.ndarray]


def write_scores(path: Path, numbers: Sequence[int] | np.ndarray, scores: Sequence[np.ndarray]) -> None:
    columns = {"list": numbers, "scores": [np.asarray(s, np.float32) for s in scores]}
    with atomic_path(path) as temporary:
        pl.DataFrame(columns, schema={"list": pl.Int32, "scores": pl.List(pl.Float32)}).write_parquet(temporary)


def read_scores(path: Path, lists: Lists, whole: bool = True) -> Scores:
    """Raises UserError where the file is missing, or does not fit `lists`, the lists it was made for: all of them, or
    not even that where `whole` is false."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage that scores this model (dvc repro)")
    table = pl.read_parquet(path).sort("list")
    numbers = table["list"].to_numpy().astype(np.int64)
    values = [np.asarray(s, np.float32) for s in table["scores"]]
    again = f"{path}: scored on other lists than preprocess wrote ({{}}); score this model again (dvc repro)"
    if not len(numbers):
        raise UserError(f"{path}: expected the scores of at least one list, got none")
    if numbers[0] < 0 or numbers[-1] >= len(lists) or (np.diff(numbers) == 0).any():
        found = f"expected each of 0..{len(lists) - 1} at most once, got {len(numbers)} in {numbers[0]}..{numbers[-1]}"
        raise UserError(again.format(found))
    if whole and len(numbers) < len(lists):
        raise UserError(again.format(f"expected all {len(lists)} lists, got {len(numbers)}"))
    for number, scores in zip(numbers, values, strict=True):
        if len(scores) != len(lists.candidates[number]):
            sizes = f"list {number} has {len(lists.candidates[number])} candidates, {len(scores)} scores"
            raise UserError(again.format(sizes))
        if not np.isfinite(scores).all():
            raise UserError(f"{path}: list {number} has scores that are not finite; the model that gave them is broken")
    return Scores(numbers, values)
