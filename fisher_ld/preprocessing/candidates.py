"""The stored candidate lists: one positive, its negatives, and where its history lies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.filters import Positives
from fisher_ld.preprocessing.matched import matched_negatives
from fisher_ld.preprocessing.negatives import sample_negatives
from fisher_ld.preprocessing.splits import (
    COLD_TEST,
    COLD_VALIDATION,
    LABELLED,
    TRANSFER,
    WARM,
    stream,
    training_lists,
    window_roles,
    windows,
    with_long_lists,
)

Negatives = np.ndarray | list[np.ndarray]  # of n lists: (n, negatives), or an array each


@dataclass(frozen=True)
class Catalogue:
    """What is known of the items, (n_items,) each."""

    role: np.ndarray  # WARM, COLD_VALIDATION or COLD_TEST
    count: np.ndarray  # training positives
    total: np.ndarray  # positives

    @property
    def warm(self) -> np.ndarray:
        return self.role == WARM

    @property
    def popularity(self) -> np.ndarray:
        """By which negatives are matched: training positives; of cold items, which have none, all positives. The latter
        would not do for warm ones: they count the evaluated positive itself, so that it has fewer training positives
        than negatives of the same total, and inverse popularity finds it."""
        return np.where(self.warm, self.count, self.total)

    def pool(self, role: int) -> np.ndarray:
        """Items that lists for `role` hold: those of that role where there are any, else all."""
        return self.role == (role if (self.role == role).any() else WARM)


@dataclass(frozen=True)
class Wanted:
    """n lists that want negatives."""

    name: str  # of the file
    key: str  # of the params, how many
    user: np.ndarray  # (n,) int64
    start: np.ndarray  # (n,) int64
    position: np.ndarray  # (n,) int64
    item: np.ndarray  # (n,) int64, the true one
    last: np.ndarray | None  # (n,) int64, position up to which what the user touched is no negative; None: any
    pool: np.ndarray  # (n_items,) bool, what negatives are drawn of


class ListWriter:
    """Draws the negatives of lists and writes them into `folder`."""

    def __init__(self, folder: Path, histories: Positives, catalogue: Catalogue, data: DataSet, seed: int) -> None:
        """`histories`: the warm positives, which positions count."""
        self.folder, self.histories, self.catalogue, self.data, self.seed = folder, histories, catalogue, data, seed

    def train(self, train_end: np.ndarray) -> None:
        """labelled and transfer.parquet: of the training windows those that anyone reads. `train_end` (n_users,):
        position at which each user's training ends, 0 where there is none."""
        data, rng = self.data, stream(self.seed, "window roles")
        user, position, start = training_lists(train_end, data)
        window = windows(user, start)
        ends = np.flatnonzero(np.diff(window, append=-1))  # the last list of each window
        roles = window_roles(len(ends), data.labelled_windows, data.transfer_windows, rng)[window]

        def of(role: int, name: str, key: str) -> Wanted:
            rows = np.flatnonzero(roles == role)
            item, last = self.histories.at(user[rows], position[rows]), position[ends][window[rows]]
            return Wanted(name, key, user[rows], start[rows], position[rows], item, last, self.catalogue.warm)

        labelled, transfer = of(LABELLED, "labelled", "train_negatives"), of(TRANSFER, "transfer", "transfer_negatives")
        self._write(labelled, self._matched(labelled))
        unknown = pl.Series(np.full(len(transfer.user), -1), dtype=pl.Int32)
        self._write(transfer, self._matched(transfer) if len(transfer.user) else [], positive=unknown)

    def val(self, users: np.ndarray, position: np.ndarray, item: np.ndarray) -> None:
        """val.parquet: for each of `users` a list after the history that ends at `position`, `item` its positive."""
        lists = self._evaluated("val", users, position, item, COLD_VALIDATION)
        self._write(lists, self._matched(lists))

    def test(self, users: np.ndarray, position: np.ndarray, item: np.ndarray) -> None:
        """test_FAMILY.parquet of every family that is made of the data alone."""
        draws: dict[str, Callable[[Wanted], Negatives]] = {
            "matched": self._matched,
            "uniform": lambda lists: self._weighted(lists, np.ones(len(lists.pool))),
            "popularity": lambda lists: self._weighted(lists, self.catalogue.count.astype(np.float64)),
            "full": self._all,
        }
        for family in (name for name in draws if name in self.data.families):
            of = np.arange(len(users))
            if family == "full":
                of = with_long_lists(of, self.seed)
            lists = self._evaluated(f"test_{family}", users[of], position[of], item[of], COLD_TEST)
            self._write(lists, draws[family](lists))

    def _evaluated(self, name: str, users: np.ndarray, position: np.ndarray, item: np.ndarray, role: int) -> Wanted:
        start = np.maximum(0, position - self.data.history_length)
        pool = self.catalogue.pool(role)
        return Wanted(name, "eval_negatives", users, start, position, item, None, pool)

    def _matched(self, lists: Wanted) -> np.ndarray:
        count, touched = self._count(lists, lists.pool), self.histories.touched
        rng, popularity = self._stream("negatives", lists), self.catalogue.popularity
        return matched_negatives(lists.user, lists.item, lists.last, count, popularity, lists.pool, touched, rng)

    def _weighted(self, lists: Wanted, weights: np.ndarray) -> np.ndarray:
        weights = np.where(lists.pool, weights, 0)
        count = self._count(lists, weights > 0)
        return sample_negatives(lists.user, count, weights, self.histories.touched, self._stream("negatives", lists))

    def _all(self, lists: Wanted) -> list[np.ndarray]:
        """All that the users never touched."""
        free = np.broadcast_to(lists.pool, (len(lists.user), len(lists.pool))).copy()
        free[self.histories.touched.by(lists.user, None)] = False
        return [np.flatnonzero(row) for row in free]

    def _stream(self, purpose: str, lists: Wanted) -> np.random.Generator:
        return stream(self.seed, f"{purpose} {lists.name}")

    def _count(self, lists: Wanted, pool: np.ndarray) -> int:
        """How many negatives a list wants. Raises UserError where there are no lists, or too few items in `pool`."""
        users = self.histories.user_names
        if not len(lists.user):
            raise UserError(
                f"no {lists.name} lists: none of the {len(users)} users has a positive with a history for one (the "
                f"longest has {self.histories.lengths.max()} positives). Raise user_core, or use more data."
            )
        count = getattr(self.data, lists.key)
        left = self.histories.touched.left(lists.user, lists.last, pool)
        if (left < count).any():
            short, worst = len(np.unique(lists.user[left < count])), users[lists.user[np.argmin(left)]]
            raise UserError(
                f"{lists.key}: {lists.name} lists need {count} items that the user has not touched, but {short} users "
                f"have fewer (user {worst} has {left.min()}, of {np.count_nonzero(pool)} items to draw from). If "
                f"these are no persons, leave them out of the interactions; else lower {lists.key} or item_core, or "
                "use more data."
            )
        return count

    def _write(self, lists: Wanted, drawn: Negatives, **columns: pl.Series) -> None:
        """`columns`: over or beside those that all lists have."""
        number, candidates, places = shuffle(lists.item, drawn, self._stream("places", lists))
        flat = pl.DataFrame({"list": number, "candidates": candidates}, {"list": pl.Int32, "candidates": pl.Int32})
        whole = {"list": np.arange(len(places)), "user": lists.user, "start": lists.start, "position": lists.position}
        table = pl.DataFrame(whole, dict.fromkeys(whole, pl.Int32)).with_columns(
            flat.group_by("list", maintain_order=True).agg("candidates")["candidates"],
            pl.Series("positive", places, dtype=pl.Int32),
        )
        table.with_columns(**columns).write_parquet(self.folder / f"{lists.name}.parquet")


def shuffle(items: np.ndarray, drawn: Negatives, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Puts items[i] among drawn[i] in random order, so that its place carries nothing. Returns the number of the list
    of each candidate, (candidates,), the candidates, (candidates,), and the place of items[i], (lists,)."""
    lists = np.arange(len(items))
    number = np.concatenate([lists, np.repeat(lists, [len(others) for others in drawn])])
    order = np.lexsort((rng.random(len(number)), number))
    first = np.searchsorted(number[order], lists)
    return number[order], np.concatenate([items, *drawn])[order], np.flatnonzero(order < len(items)) - first
