"""Which items a user had to do with, liked or not, and since when: they are no negatives of that user."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


def pair_keys(users: np.ndarray, items: np.ndarray, n_items: int) -> np.ndarray:
    """One int64 for each user and item."""
    return users.astype(np.int64) * n_items + items


@dataclass(frozen=True)
class Touched:
    """The pairs of all interactions. A pair counts as touched by `last` where it came before the user's positive number
    `last`, or is it."""

    keys: np.ndarray  # (n,) sorted pair_keys
    since: np.ndarray  # (n,) int32, how many of the user's positives came before the first interaction of the pair
    n_items: int

    def contains(self, users: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Whether the pairs were ever touched: a bool of their shape."""
        keys = pair_keys(users, items, self.n_items)
        if not len(self.keys):
            return np.zeros(keys.shape, bool)
        place = np.searchsorted(self.keys, keys)
        return self.keys[np.minimum(place, len(self.keys) - 1)] == keys

    def by(self, users: np.ndarray, last: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """Places in `users`, and the items that users[i] had touched by last[i] (None: ever), one pair after the
        other: two arrays of one length."""
        rows, pairs = self._of(users)
        if last is not None:
            early = self.since[pairs] <= last[rows]
            rows, pairs = rows[early], pairs[early]
        return rows, self.keys[pairs] % self.n_items

    def left(self, users: np.ndarray, last: np.ndarray | None, pool: np.ndarray) -> np.ndarray:
        """How many items of `pool` (n_items,) bool users[i] had not touched by last[i] (None: ever): (n,) int64."""
        distinct, place = np.unique(users, return_inverse=True)
        owners, pairs = self._of(distinct)
        inside = pool[self.keys[pairs] % self.n_items]
        owners, since = owners[inside], self.since[pairs[inside]]
        span = int(since.max(initial=0)) + 2
        times = np.sort(owners * span + since)
        by = np.full(len(users), span - 1) if last is None else np.minimum(last, span - 1)
        end, first = np.searchsorted(times, place * span + by, "right"), np.searchsorted(times, place * span)
        return np.count_nonzero(pool) - (end - first)

    def _of(self, users: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places in `users`, and the places of the pairs of users[i], one pair after the other."""
        first, end = (np.searchsorted(self.keys, (users + i).astype(np.int64) * self.n_items) for i in (0, 1))
        count = end - first
        rows = np.repeat(np.arange(len(users)), count)
        return rows, np.arange(count.sum()) + np.repeat(first - (np.cumsum(count) - count), count)
