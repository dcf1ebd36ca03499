"""Folds, and which of a user's positives are train, validation and test."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

FOLDS = 5


def stream(seed: int, name: str) -> np.random.Generator:
    """A random generator of its own for each purpose, so that a change in one draw leaves the others alone."""
    return np.random.default_rng([seed % 2**32, zlib.crc32(name.encode())])


def choose(users: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """`count` of `users` (None: all), drawn without replacement, in their order."""
    return users[np.sort(np.random.default_rng(seed).permutation(len(users))[:count])]


def folds(n_users: int, rng: np.random.Generator) -> np.ndarray:
    """A fold 0..4 for each user, of equal size to one user: (n_users,) int8."""
    return rng.permutation(np.arange(n_users) % FOLDS).astype(np.int8)


@dataclass(frozen=True)
class Split:
    """Positions of each user's positives, all (n_users,) int64: train is 0..train_end - 1, then come one validation
    and one test position, -1 where there is none. Position 0 has no history and makes no list."""

    train_end: np.ndarray
    val: np.ndarray
    test: np.ndarray


def leave_last_out(lengths: np.ndarray) -> Split:
    """The last positive is test, the one before it validation."""
    return _split(lengths - 1, np.ones(len(lengths), bool))


def global_time(lengths: np.ndarray, before: np.ndarray) -> Split:
    """One cut-off for all users, `before` (n_users,) the number of a user's positives that lie before it: the first
    after it is test, the last before it validation. Later ones are not used."""
    return _split(before, before < lengths)


def _split(test: np.ndarray, tested: np.ndarray) -> Split:
    val = test - 1
    return Split(np.maximum(val, 0), np.where(val >= 1, val, -1), np.where(tested & (test >= 1), test, -1))


def train_positions(train_end: np.ndarray, users: np.ndarray, latest: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Users and positions of the training lists, by user and position: the `latest` (None: all) of each of `users`."""
    end = train_end[users]
    first = np.maximum(1, end - latest) if latest else np.ones_like(end)
    count = np.maximum(end - first, 0)
    offsets = np.cumsum(count) - count
    positions = np.arange(count.sum()) - np.repeat(offsets, count) + np.repeat(first, count)
    return np.repeat(users, count), positions


def block_starts(ends: np.ndarray, positions: np.ndarray, history_length: int, block: int) -> np.ndarray:
    """First position of the history of training lists. Counted back from `ends`, the user's first position after the
    training ones, all positions of a block of `block` share one start: the last sees `history_length` positives."""
    last = ends - 1 - (ends - 1 - positions) // block * block  # of the block
    return np.maximum(0, last - history_length)
