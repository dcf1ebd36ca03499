"""Candidate lists and user sequences as `preprocess` wrote them, in numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from fisher_ld.config.params import Family
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError


@dataclass(frozen=True)
class Lists:
    """n candidate lists, each after a part of what its user liked: its history."""

    user: np.ndarray  # (n,) int
    start: np.ndarray  # (n,) int
    position: np.ndarray  # (n,) int
    positive: np.ndarray  # (n,) int, the positive's place in `candidates`; -1 where it is not to be known
    candidates: list[np.ndarray]  # n arrays of item numbers
    offsets: np.ndarray  # (n + 1,) int; candidate j of list i is example `offsets[i] + j`
    sequences: list[np.ndarray]  # the positives of every user, oldest first; index = user number

    def __len__(self) -> int:
        return len(self.user)

    def history(self, number: int) -> np.ndarray:
        """Item numbers that a prompt of this list holds before the candidate, oldest first."""
        return self.sequences[self.user[number]][self.start[number] : self.position[number]]

    def examples(self, numbers: Iterable[int]) -> np.ndarray:
        """Example ids of the lists with these numbers, one list after the other."""
        return np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1], dtype=np.int64) for i in numbers])

    def labels(self, numbers: Iterable[int] | None = None) -> np.ndarray:
        """1 for the positive of each list, 0 for its negatives, nan where that is not to be known: (examples,), of the
        lists with these numbers (None: all), one list after the other."""
        found = [np.empty(0, np.float32)]
        for number in range(len(self)) if numbers is None else numbers:
            place, label = self.positive[number], np.zeros(len(self.candidates[number]), np.float32)
            label[place if place >= 0 else slice(None)] = 1 if place >= 0 else np.nan
            found.append(label)
        return np.concatenate(found)

    def windows(self) -> list[np.ndarray]:
        """List numbers grouped by what one packed row can share: the user and the history's start."""
        order = np.lexsort((self.position, self.start, self.user))
        changed = (np.diff(self.user[order]) != 0) | (np.diff(self.start[order]) != 0)
        return np.split(order, np.flatnonzero(changed) + 1) if len(order) else []


# Of test lists, by how their negatives are drawn: of the positive's popularity; uniformly; by popularity; all items;
# the best of a first stage. The first is the main one.
FAMILIES: tuple[str, ...] = get_args(Family)
MAIN = FAMILIES[0]
COLUMNS = ("user", "start", "position", "positive")


def make_lists(columns: Mapping[str, np.ndarray], candidates: list[np.ndarray], sequences: list[np.ndarray]) -> Lists:
    """`columns`: those of COLUMNS, (n,) int each, others are left aside; the offsets follow from the candidates."""
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in candidates])]).astype(np.int64)
    own = {name: columns[name] for name in COLUMNS}
    return Lists(**own, candidates=candidates, offsets=offsets, sequences=sequences)


def _table(path: Path) -> pl.LazyFrame:
    """Of which only the rows and columns that are asked for are read, a group of rows at a time."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage preprocess (dvc repro)")
    return pl.scan_parquet(path, glob=False)


def read_lists(processed: Path, name: str) -> Lists:
    """`name`: labelled, transfer, val or test_FAMILY. Raises UserError where preprocess has not written it."""
    return _lists(_table(processed / f"{name}.parquet"), read_sequences(processed))


def read_taught(processed: Path) -> Lists:
    """What a teacher's answers are kept for: the labelled lists, then those of transfer windows."""
    return concat(read_lists(processed, "labelled"), read_lists(processed, "transfer"))


def read_tests(data: DataPaths) -> dict[str, Lists]:
    """The test lists of every family that was written, the main one first."""
    files = {family: data.test_lists(family) for family in FAMILIES}
    sequences = read_sequences(data.processed)
    return {name: _lists(_table(path), sequences) for name, path in files.items() if name == MAIN or path.is_file()}


def _lists(rows: pl.LazyFrame, sequences: list[np.ndarray]) -> Lists:
    """In the order of their numbers."""
    table = rows.select("list", *COLUMNS, "candidates").sort("list").collect()
    columns = {column: table[column].to_numpy().astype(np.int64) for column in COLUMNS}
    return make_lists(columns, _arrays(table["candidates"]), sequences)


def _arrays(column: pl.Series) -> list[np.ndarray]:
    """One for each row of a column of lists; they are parts of one."""
    if isinstance(column.dtype, pl.Array):  # where all lists were as long
        column = column.arr.to_list()
    joined: Any = column.to_arrow()
    offsets = joined.offsets.to_numpy()
    return np.split(joined.flatten().to_numpy(), offsets[1:-1] - offsets[0]) if len(column) else []


def take(lists: Lists, numbers: np.ndarray) -> Lists:
    """The lists with these numbers, renumbered from 0."""
    columns = {name: getattr(lists, name)[numbers] for name in COLUMNS}
    return make_lists(columns, [lists.candidates[i] for i in numbers], lists.sequences)


def concat(a: Lists, b: Lists) -> Lists:
    """The lists of `a`, then those of `b`, over the same users."""
    columns = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in COLUMNS}
    return make_lists(columns, a.candidates + b.candidates, a.sequences)


def read_sequences(processed: Path) -> list[np.ndarray]:
    """The positives of every user, oldest first; index = user number."""
    return _arrays(_table(processed / "sequences.parquet").select("user", "items").sort("user").collect()["items"])


def read_texts(processed: Path) -> list[str]:
    """The texts of all items, by item number."""
    return _table(processed / "items.parquet").select("item", "text").sort("item").collect()["text"].to_list()
