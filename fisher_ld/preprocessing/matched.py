"""Negatives as popular as the positive: its nearest neighbours in the order of popularity, among which its own place is
uniform, so that neither popularity nor its inverse ranks better than chance.

A positive near an end of the catalogue has too few neighbours on one side. It takes what there is, and the lists of all
other positives make up for it, so that places are uniform over all lists.
"""

from __future__ import annotations

import numpy as np

from fisher_ld.preprocessing.touched import Touched

BLOCK = 256  # lists at a time, which share one order of the items that tie; fixed, since the draws depend on it


def matched_negatives(
    users: np.ndarray,
    positives: np.ndarray,
    last: np.ndarray | None,
    count: int,
    popularity: np.ndarray,
    pool: np.ndarray,
    touched: Touched,
    rng: np.random.Generator,
) -> np.ndarray:
    """For list i `count` items of `pool` that users[i] had not touched by last[i] (None: ever), near positives[i] in
    `popularity`: (n, count) int64. `popularity` (n_items,), ties in random order; `pool` (n_items,) bool holds all
    positives. Every list needs that many (see `Touched.left`)."""
    drawn = np.zeros((len(users), count), np.int64)
    for begin in range(0, len(users), BLOCK):
        rows = slice(begin, begin + BLOCK)
        order = rng.permutation(np.flatnonzero(pool))
        order = order[np.argsort(popularity[order], kind="stable")]
        rank = np.full(len(pool), -1)
        rank[order] = np.arange(len(order))
        free = _free(users[rows], None if last is None else last[rows], rank, touched)
        own = rank[positives[rows]]
        free[np.arange(len(own)), own] = False
        drawn[rows] = order[_nearest(free, own, count, rng)]
    return drawn


def _free(users: np.ndarray, last: np.ndarray | None, rank: np.ndarray, touched: Touched) -> np.ndarray:
    """Which ranks of the pool may be drawn: (lists, ranks) bool."""
    free = np.ones((len(users), rank.max() + 1), bool)
    rows, items = touched.by(users, last)
    inside = rank[items] >= 0
    free[rows[inside], rank[items[inside]]] = False
    return free


def _nearest(free: np.ndarray, own: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Ranks of `count` free places around each `own`: (lists, count)."""
    places = np.flatnonzero(free)
    first, middle, end = (
        np.searchsorted(places, np.arange(len(own)) * free.shape[1] + r) for r in (0, own, free.shape[1])
    )
    lower = _lower(middle - first, end - middle, count, rng)
    return places[(middle - lower)[:, None] + np.arange(count)] % free.shape[1]


def _lower(below: np.ndarray, above: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """How many of the negatives are less popular than the positive, where so many are free `below` and `above` it:
    (lists,). Uniform over 0..count in all lists together."""
    least, most = np.maximum(0, count - above), np.minimum(count, below)
    lower, owed = np.zeros_like(least), np.full(count + 1, -(-len(least) // (count + 1)))
    width = most - least
    for row in np.argsort(width, kind="stable")[: np.count_nonzero(width < count)]:  # the least free choose first
        may = slice(least[row], most[row] + 1)
        lower[row] = least[row] + np.argmax(owed[may] + rng.random(width[row] + 1))
        owed[lower[row]] -= 1
    rest = width == count
    lower[rest] = rng.permutation(np.repeat(np.arange(count + 1), np.maximum(0, owed)))[: np.count_nonzero(rest)]
    return lower
