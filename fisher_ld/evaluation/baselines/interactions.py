"""What learned rivals are fitted on: likes in their order, as far as their labels may be known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists, read_lists, read_sequences

# Of the labelled windows, which is what models learn from; of all training positives; of nobody
Labels = Literal["same", "all", "none"]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Runs of likes without a gap, oldest first. A user may have several, or none."""

    users: np.ndarray  # (runs,) int, the user of each run
    runs: list[np.ndarray]  # item numbers
    shape: tuple[int, int]  # users, items

    @cached_property
    def flat(self) -> np.ndarray:
        """The items of all runs, one run after the other: (likes,)."""
        return np.concatenate([np.empty(0, np.int64), *self.runs]).astype(np.int64)

    def repeat(self, values: np.ndarray) -> np.ndarray:
        """A value a run -> a value a like: (likes,)."""
        return np.repeat(values, [len(run) for run in self.runs])

    @cached_property
    def matrix(self) -> sp.csr_array:
        """Users x items, 1 where the user likes the item."""
        ones = np.ones(len(self.flat), np.float32)
        matrix = sp.csr_array((ones, (self.repeat(self.users), self.flat)), shape=self.shape)
        matrix.sum_duplicates()
        matrix.data[:] = 1
        return matrix

    @cached_property
    def count(self) -> np.ndarray:
        """How many users like each item: (items,)."""
        return np.asarray(self.matrix.sum(axis=0)).ravel()


def first_likes(sequences: Sequence[np.ndarray], counts: Iterable[int], n_items: int) -> Interactions:
    """The first `counts[u]` likes of each user u. Raises ValueError where there is not one count a user."""
    runs = [items[:count] for items, count in zip(sequences, counts, strict=True)]
    return Interactions(np.arange(len(runs)), runs, (len(sequences), n_items))


def likes_of(lists: Lists, n_items: int) -> Interactions:
    """The histories and positives of these lists, each like once however many lists hold it."""
    known = {user: np.zeros(len(lists.sequences[user]), bool) for user in np.unique(lists.user)}
    for user, start, position in zip(lists.user, lists.start, lists.position, strict=True):
        known[user][start : position + 1] = True
    users: list[int] = []
    runs: list[np.ndarray] = []
    for user, held in known.items():
        places = np.flatnonzero(held)
        parts = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
        users += [user] * len(parts)
        runs += [lists.sequences[user][part] for part in parts]
    return Interactions(np.array(users, np.int64), runs, (len(lists.sequences), n_items))


def read_interactions(processed: Path, labels: Labels) -> Interactions:
    """`same`: the likes that the labelled windows tell; `all`: every training positive of every user."""
    n_items = pl.read_parquet(processed / "items.parquet", columns=["item"]).height
    if labels == "same":
        return likes_of(read_lists(processed, "labelled"), n_items)
    users = pl.read_parquet(processed / "users.parquet", columns=["user", "train_positives"])
    counts = users.sort("user")["train_positives"]
    return first_likes(read_sequences(processed), counts, n_items)
