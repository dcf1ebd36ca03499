"""Weighted negatives without replacement, never one that the user touched; vectorised over the lists."""

from __future__ import annotations

import numpy as np

from fisher_ld.preprocessing.touched import Touched

BLOCK = 2**16  # lists at a time; fixed, since the draws depend on it
ROUNDS = 6  # of drawing and discarding, before the lists that are still short are drawn exactly


def sample_negatives(
    users: np.ndarray, count: int, weights: np.ndarray, touched: Touched, rng: np.random.Generator
) -> np.ndarray:
    """For list i `count` items that users[i] did not touch, drawn one after the other with a chance proportional to
    `weights` among those not drawn yet: (n, count) int64. Every user needs that many (see `Touched.left`).

    To draw with replacement and pass over what is touched or already drawn is the same distribution, and needs no
    array of lists x items."""
    blocks = [_sample_block(users[i : i + BLOCK], count, weights, touched, rng) for i in range(0, len(users), BLOCK)]
    return np.concatenate(blocks) if blocks else np.zeros((0, count), np.int64)


def _sample_block(
    users: np.ndarray, count: int, weights: np.ndarray, touched: Touched, rng: np.random.Generator
) -> np.ndarray:
    cumulative = np.cumsum(weights, dtype=np.float64)
    chosen = np.full((len(users), count), -1, np.int64)  # -1: still open
    for _ in range(ROUNDS):
        short = np.flatnonzero(chosen[:, -1] < 0)
        if not len(short):
            return chosen
        uniform = rng.random((len(short), 2 * count + 8)) * cumulative[-1]
        drawn = np.minimum(np.searchsorted(cumulative, uniform, side="right"), np.flatnonzero(weights)[-1])
        drawn[touched.contains(users[short, None], drawn)] = -1
        chosen[short] = _first_distinct(np.concatenate([chosen[short], drawn], axis=1), count)
    for row in np.flatnonzero(chosen[:, -1] < 0):
        chosen[row] = _complete(chosen[row], users[row], weights, touched, rng)
    return chosen


def _first_distinct(items: np.ndarray, count: int) -> np.ndarray:
    """The first `count` distinct items of each row, in their order; -1 is no item and fills up: (n, count)."""
    order = np.argsort(items, axis=1, kind="stable")
    ordered = np.take_along_axis(items, order, axis=1)
    repeated = np.zeros(items.shape, bool)
    np.put_along_axis(repeated, order[:, 1:], ordered[:, 1:] == ordered[:, :-1], axis=1)
    valid = (items >= 0) & ~repeated
    place = np.cumsum(valid, axis=1) - 1
    rows, columns = np.nonzero(valid & (place < count))
    result = np.full((len(items), count), -1, np.int64)
    result[rows, place[rows, columns]] = items[rows, columns]
    return result


def _complete(
    chosen: np.ndarray, user: int, weights: np.ndarray, touched: Touched, rng: np.random.Generator
) -> np.ndarray:
    """The open places of one list, by the smallest exponential arrival times over all items: the same distribution
    (Efraimidis and Spirakis, Weighted random sampling with a reservoir, 2006)."""
    free = weights.astype(np.float64).copy()
    free[touched.by(np.array([user]), None)[1]] = 0
    free[chosen[chosen >= 0]] = 0
    candidates = np.flatnonzero(free)
    arrival = rng.exponential(size=len(candidates)) / free[candidates]
    open_places = np.count_nonzero(chosen < 0)
    result = chosen.copy()
    result[result < 0] = candidates[np.argsort(arrival, kind="stable")[:open_places]]
    return result
