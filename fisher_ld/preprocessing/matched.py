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
        own, (lists, items) = rank[positives[rows]], touched.by(users[rows], None if last is None else last[rows])
        inside = (rank[items] >= 0) & (items != positives[rows][lists])
        lists = np.concatenate([np.arange(len(own)), lists[inside]])
        taken = np.concatenate([own, rank[items[inside]]])
        drawn[rows] = order[_nearest(own, lists, taken, len(order), count, rng)]
    return drawn


def _nearest(
    own: np.ndarray, lists: np.ndarray, taken: np.ndarray, n: int, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Of `n` ranks `count` free ones around each `own`: (lists, count). The rank taken[i], which may be the own one, is
    not free in lists[i]."""
    keys = np.sort(lists * n + taken)
    lists, first = keys // n, np.searchsorted(keys, np.arange(len(own) + 1) * n)
    before = np.searchsorted(keys, np.arange(len(own)) * n + own) - first[:-1]  # ranks taken below the own one
    below, free = own - before, n - np.diff(first)
    wanted = (below - _lower(below, free - below, count, rng))[:, None] + np.arange(count)  # places among the free ones
    # the free place j is the rank j + m where m ranks are taken before it: those with fewer than j + 1 free ones below
    freed = keys - (np.arange(len(keys)) - first[lists])
    at = np.arange(len(own))[:, None] * n + wanted
    return wanted + np.searchsorted(freed, at.ravel(), "right").reshape(at.shape) - first[:-1, None]


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
