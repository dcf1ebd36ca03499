"""Candidate lists and user sequences as `preprocess` wrote them, in numpy."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
import polars as pl

from fisher_ld.config.params import Family
from fisher_ld.config.paths import DataPaths, for_tests
from fisher_ld.core.errors import UserError


class Ragged(Sequence[np.ndarray]):
    """Rows of several lengths, each a part of one array: row i is values[offsets[i] : offsets[i + 1]]."""

    def __init__(self, values: np.ndarray, offsets: np.ndarray) -> None:
        self.values, self.offsets = values, offsets

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: Any) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        return self.values[self.offsets[row] : self.offsets[row + 1]]


@dataclass(frozen=True)
class Lists:
    """n candidate lists, each after a part of what its user liked: its history."""

    user: np.ndarray  # (n,) int
    start: np.ndarray  # (n,) int
    position: np.ndarray  # (n,) int
    positive: np.ndarray  # (n,) int, the positive's place in `candidates`; -1 where it is not to be known
    candidates: Sequence[np.ndarray]  # n arrays of item numbers
    offsets: np.ndarray  # (n + 1,) int; candidate j of list i is example `offsets[i] + j`
    sequences: Sequence[np.ndarray]  # the positives of each of these users, oldest first; index = user number

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


def make_lists(
    columns: Mapping[str, np.ndarray], candidates: Sequence[np.ndarray], sequences: Sequence[np.ndarray]
) -> Lists:
    """`columns`: those of COLUMNS, (n,) int each, others are left aside; the offsets follow from the candidates."""
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in candidates])]).astype(np.int64)
    own = {name: columns[name] for name in COLUMNS}
    return Lists(**own, candidates=candidates, offsets=offsets, sequences=sequences)


def _table(path: Path) -> pl.LazyFrame:
    """Of which only the rows and columns that are asked for are read, a group of rows at a time."""
    if not path.is_file():
        raise UserError(f"{path}: no such file; run the stage preprocess (dvc repro)")
    return pl.scan_parquet(path, glob=False)


def list_file(processed: Path, name: str) -> Path:
    """`name`: labelled, transfer, val or test_FAMILY."""
    return (for_tests(processed) if name.startswith("test_") else processed) / f"{name}.parquet"


def read_lists(processed: Path, name: str) -> Lists:
    """Those of `list_file`. Raises UserError where preprocess has not written it."""
    (lists,) = _read(processed, [list_file(processed, name)])
    return lists


def read_taught(processed: Path) -> Lists:
    """What a teacher's answers are kept for: the labelled lists, then those of transfer windows."""
    return concat(*_read(processed, [list_file(processed, name) for name in ("labelled", "transfer")]))


def read_tests(data: DataPaths) -> dict[str, Lists]:
    """The test lists of every family that was written, the main one first."""
    files = {family: data.test_lists(family) for family in FAMILIES}
    files = {family: file for family, file in files.items() if family == MAIN or file.is_file()}
    return dict(zip(files, _read(data.processed, files.values()), strict=True))


def _read(processed: Path, files: Iterable[Path]) -> list[Lists]:
    """Of each file its lists in the order of their numbers; all share the sequences, of their users alone."""
    tables = [_table(file).select("list", *COLUMNS, "candidates").sort("list").collect() for file in files]
    columns = [{name: table[name].to_numpy().astype(np.int64) for name in COLUMNS} for table in tables]
    sequences = read_sequences(processed, np.concatenate([own["user"] for own in columns]))
    return [
        make_lists(own, list(_ragged(table["candidates"])), sequences)
        for own, table in zip(columns, tables, strict=True)
    ]


def _ragged(column: pl.Series) -> Ragged:
    """A row for each of a column of lists."""
    if isinstance(column.dtype, pl.Array):  # where all lists were as long
        column = column.arr.to_list()
    joined: Any = column.to_arrow()
    offsets = joined.offsets.to_numpy()
    return Ragged(joined.flatten().to_numpy(), offsets - offsets[0])


def take(lists: Lists, numbers: np.ndarray) -> Lists:
    """The lists with these numbers, renumbered from 0."""
    columns = {name: getattr(lists, name)[numbers] for name in COLUMNS}
    return make_lists(columns, [lists.candidates[i] for i in numbers], lists.sequences)


def concat(a: Lists, b: Lists) -> Lists:
    """The lists of `a`, then those of `b`, which share their sequences."""
    columns = {name: np.concatenate([getattr(a, name), getattr(b, name)]) for name in COLUMNS}
    return make_lists(columns, [*a.candidates, *b.candidates], a.sequences)


def read_sequences(processed: Path, users: np.ndarray | None = None) -> Ragged:
    """The positives of every user, oldest first; index = user number. With `users` those of the others are not read,
    and empty."""
    rows = _table(processed / "sequences.parquet").select("user", "items")
    if users is None:
        return _ragged(rows.sort("user").collect()["items"])
    n_users = rows.select(pl.len()).collect().item()
    asked = pl.Series(np.unique(users), dtype=rows.collect_schema()["user"])
    table = rows.filter(pl.col("user").is_in(asked.implode())).sort("user").collect()
    found, lengths = _ragged(table["items"]), np.zeros(n_users, np.int64)
    lengths[table["user"].to_numpy()] = np.diff(found.offsets)
    return Ragged(found.values, np.concatenate([[0], np.cumsum(lengths)]))


def read_texts(processed: Path) -> list[str]:
    """The texts of all items, by item number."""
    return _table(processed / "items.parquet").select("item", "text").sort("item").collect()["text"].to_list()
