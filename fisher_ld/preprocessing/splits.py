"""Folds, cold items, windows, and which of a user's positives are train, validation and test."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from fisher_ld.config.params import DataSet

FOLDS = 5
LONG_USERS = 500  # whose lists of a hundred candidates and more are kept, which are dear
WARM, COLD_VALIDATION, COLD_TEST = range(3)  # what an item is for; all are warm unless split: cold_items
COLD_SHARE = 5  # of the items every fifth is cold
UNUSED, LABELLED, TRANSFER = range(3)  # what a training window is for


def stream(seed: int, name: str) -> np.random.Generator:
    """A random generator of its own for each purpose, so that a change in one draw leaves the others alone."""
    return np.random.default_rng([seed % 2**32, zlib.crc32(name.encode())])


def choose(users: np.ndarray, count: int | None, seed: int) -> np.ndarray:
    """`count` of `users` (None: all), drawn without replacement, in their order."""
    return users[np.sort(np.random.default_rng(seed).permutation(len(users))[:count])]


def with_long_lists(users: np.ndarray, seed: int) -> np.ndarray:
    """Of the test users those who have lists of the families full and two-stage too: the same for both."""
    return choose(users, LONG_USERS, seed)


def folds(n_users: int, rng: np.random.Generator) -> np.ndarray:
    """A fold 0..4 for each user, of equal size to one user: (n_users,) int8."""
    return rng.permutation(np.arange(n_users) % FOLDS).astype(np.int8)


@dataclass(frozen=True)
class Split:
    """Places among each user's positives, all (n_users,) int64: those before `train_end` are train; one is validation
    and one test, -1 where there is none. A positive without a warm one before it has no history and makes no list."""

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


def cold_roles(n_items: int, rng: np.random.Generator) -> np.ndarray:
    """WARM for four fifths of the items, COLD_VALIDATION and COLD_TEST for half of the others each: (n_items,) int8."""
    roles, cold = np.full(n_items, WARM, np.int8), rng.permutation(n_items)[: n_items // COLD_SHARE]
    roles[cold[::2]], roles[cold[1::2]] = COLD_TEST, COLD_VALIDATION
    return roles


def cold_items(items: np.ndarray, offsets: np.ndarray, roles: np.ndarray) -> Split:
    """Test is the last COLD_TEST positive with a warm one before it, validation the last such COLD_VALIDATION one;
    train ends at the earlier of them. `items`: of the positives, user after user; `offsets` (n_users + 1,): where each
    user's begin; `roles`: of the items."""
    lengths, role = np.diff(offsets), roles[items]
    users = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(items)) - offsets[users]
    first_warm = lengths.copy()
    np.minimum.at(first_warm, users[role == WARM], place[role == WARM])

    def last(wanted: int) -> np.ndarray:
        found, which = np.full(len(lengths), -1), (role == wanted) & (place > first_warm[users])
        np.maximum.at(found, users[which], place[which])
        return found

    val, test = last(COLD_VALIDATION), last(COLD_TEST)
    ends = (np.where(place >= 0, place, lengths) for place in (val, test))
    return Split(np.minimum(*ends), val, test)


def training_lists(train_end: np.ndarray, data: DataSet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, position and start of the training lists, by user and position: all that have a history. `train_end`
    (n_users,): position at which each user's training ends."""
    count = np.maximum(train_end - 1, 0)
    user, offsets = np.repeat(np.arange(len(count)), count), np.cumsum(count) - count
    position = np.arange(len(user)) - offsets[user] + 1
    return user, position, block_starts(train_end[user], position, data.history_length, data.history_block)


def block_starts(ends: np.ndarray, positions: np.ndarray, history_length: int, block: int) -> np.ndarray:
    """First position of the history of training lists. Counted back from `ends`, the user's first position after the
    training ones, all positions of a block of `block` share one start. The block's mean history is `history_length`
    positives (half a one more where `block` is even): its first sees fewer, its last more."""
    last = ends - 1 - (ends - 1 - positions) // block * block  # of the block
    return np.maximum(0, last - history_length - block // 2)


def windows(users: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """Which window each training list is of, 0.. in their order: those of a user that share a start. (n,) int64; the
    lists are sorted by user and position."""
    new = (np.diff(users, prepend=-1) != 0) | (np.diff(starts, prepend=-1) != 0)
    return np.cumsum(new) - 1


def window_roles(n_windows: int, labelled: int | None, transfer: int | None, rng: np.random.Generator) -> np.ndarray:
    """LABELLED for `labelled` of the windows (None: all), TRANSFER for the next `transfer` (None: all others) of one
    random order, else UNUSED: (n_windows,) int8."""
    order, roles = rng.permutation(n_windows), np.full(n_windows, UNUSED, np.int8)
    first = n_windows if labelled is None else labelled
    roles[order[:first]] = LABELLED
    roles[order[first : None if transfer is None else first + transfer]] = TRANSFER
    return roles
