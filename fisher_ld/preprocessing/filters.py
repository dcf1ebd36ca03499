"""From all interactions to the positives of the users and items that stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.readers import Raw
from fisher_ld.preprocessing.splits import stream
from fisher_ld.preprocessing.touched import Touched, pair_keys

AT_ONCE = 500_000  # rows that a thread looks at in one go
THREADS = 2  # more would take more memory
SHARES = 4  # in which rows are sorted


@dataclass(frozen=True)
class Positives:
    """The positives that stay, sorted by user and oldest first. Users and items are dense, shuffled numbers."""

    user_names: np.ndarray  # (users,) str, the source's ids
    item_names: np.ndarray  # (items,) str
    items: np.ndarray  # (n,) int64
    timestamps: np.ndarray | None  # (n,) int64, seconds
    offsets: np.ndarray  # (users + 1,) int64: where each user's positives begin
    touched: Touched  # every interaction of these users with these items

    @property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def users(self) -> np.ndarray:
        """Whose each positive is: (n,) int64."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def at(self, users: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The items at these places of these users' positives."""
        return self.items[self.offsets[users] + places]

    def before(self, kept: np.ndarray, users: np.ndarray, places: np.ndarray) -> np.ndarray:
        """How many of the items before these places are `kept`, (n_items,) bool: their places in `only(kept)`."""
        upto = np.concatenate([[0], np.cumsum(kept[self.items])])
        return upto[self.offsets[users] + places] - upto[self.offsets[users]]

    def only(self, kept: np.ndarray) -> Positives:
        """The positives of the items `kept`, of the same users."""
        if kept.all():
            return self
        which, (owners, _) = kept[self.items], np.divmod(self.touched.keys, self.touched.n_items)
        lengths = np.bincount(self.users()[which], minlength=len(self.lengths))
        return replace(
            self,
            items=self.items[which],
            timestamps=None if self.timestamps is None else self.timestamps[which],
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            touched=replace(self.touched, since=self.before(kept, owners, self.touched.since)),
        )


def user_blocks(users: np.ndarray) -> Iterator[slice]:
    """Rows of whole users, some AT_ONCE at a time, where rows stand by user."""
    begin = 0
    while begin < len(users):
        end = int(np.searchsorted(users, users[min(begin + AT_ONCE, len(users)) - 1], "right"))
        yield slice(begin, end)
        begin = end


def _by_threads(work: Callable[[Any], Any], parts: Iterable[Any]) -> list[Any]:
    """What `work` makes of each part, by several threads: NumPy lets go of the interpreter where it takes long."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, parts))


def _taken(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """values[places], by several threads."""
    taken = np.empty(len(places), values.dtype)
    ends = np.linspace(0, len(places), THREADS + 1, dtype=np.int64)
    _by_threads(lambda p: np.take(values, places[p], out=taken[p], mode="clip"), map(slice, ends, ends[1:]))
    return taken


def first_of(keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `np.unique` gives of keys (n,) int64 >= 0 with return_index: the distinct ones, sorted, and the first place
    of each. It sorts one number for key and place, where 63 bits are enough for it: far faster."""
    bits = len(keys).bit_length()
    if int(keys.max(initial=0)).bit_length() + bits > 63:
        return np.unique(keys, return_index=True)
    both = np.sort((keys << bits) | np.arange(len(keys)))
    found = both >> bits
    new = np.diff(found, prepend=-1) > 0
    return found[new], both[new] & ((1 << bits) - 1)


def first_pairs(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """Which rows hold a user and item for the first time, where rows stand by user: (n,) bool."""
    first = np.zeros(len(users), bool)

    def mark(block: slice) -> None:
        keys = pair_keys(users[block], items[block], int(items[block].max()) + 1)
        first[block.start + first_of(keys)[1]] = True

    _by_threads(mark, user_blocks(users))
    return first


def k_core(users: np.ndarray, items: np.ndarray, user_core: int, item_core: int) -> np.ndarray:
    """Which rows stay when users with fewer than `user_core` rows and items with fewer than `item_core` are dropped,
    repeated until nothing changes: (n,) bool."""
    kept = np.ones(len(users), bool)
    while True:
        user_rows, item_rows = np.bincount(users[kept]), np.bincount(items[kept])
        enough = (user_rows[users[kept]] >= user_core) & (item_rows[items[kept]] >= item_core)
        if enough.all():
            return kept
        kept[kept] = enough


def keep_positives(
    raw: Raw, items_with_text: pl.Series, data: DataSet, seed: int
) -> tuple[Positives, list[dict[str, Any]]]:
    """Items not among `items_with_text` are dropped. `data.max_users` are
    drawn of those with enough positives, before the k-core. Also returns what was left after each step: step, users,
    items, interactions. Raises UserError if nothing is."""
    users, items, ratings, timestamps, user_names, item_names = _coded(raw)
    steps: list[dict[str, Any]] = []

    def count(step: str, rows: np.ndarray) -> None:
        owners = users[rows]
        n_users = int(len(rows) > 0) + np.count_nonzero(owners[1:] != owners[:-1])  # they stand by user
        n_items = np.count_nonzero(np.bincount(items[rows]))
        steps.append({"step": step, "users": n_users, "items": n_items, "interactions": len(rows)})

    rows = np.arange(len(users), dtype=_number_type(len(users)))
    count("read", rows)
    rows = rows[item_names.is_in(items_with_text.implode()).to_numpy()[items]]
    count("item with a text", rows)
    if ratings is not None:
        rows = rows[ratings[rows] >= data.positive_rating]
    count("positive", rows)
    rows = rows[first_pairs(users[rows], items[rows])]
    count("first of repeats", rows)
    if data.max_users is not None:
        able = np.flatnonzero(np.bincount(users[rows]) >= data.user_core)
        if len(able) > data.max_users:
            able = stream(seed, "max_users").choice(able, data.max_users, replace=False)
        rows = rows[np.isin(users[rows], able)]
        count("max_users", rows)
    rows = rows[k_core(users[rows], items[rows], data.user_core, data.item_core)]
    count("k-core", rows)
    if not len(rows):
        raise UserError(_nothing_left(steps, data))

    kept_users, user_numbers = _shuffled(users[rows], len(user_names), stream(seed, "users"))
    kept_items, item_numbers = _shuffled(items[rows], len(item_names), stream(seed, "items"))
    touched = _touched(users, items, rows, user_numbers, item_numbers, len(kept_items))
    owners = user_numbers[users[rows]]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(owners, minlength=len(kept_users)))])
    by_number = np.empty_like(rows)
    by_number[_by_owner(owners, offsets)] = rows
    rows = by_number
    positives = Positives(
        user_names=user_names.gather(kept_users).to_numpy(),
        item_names=item_names.gather(kept_items).to_numpy(),
        items=item_numbers[items[rows]],
        timestamps=None if timestamps is None else timestamps[rows],
        offsets=offsets,
        touched=touched,
    )
    return positives, steps


def _coded(raw: Raw) -> tuple[Any, ...]:
    """All interactions by user, oldest first: users, items (n,) int32, as places in the sorted ids; ratings, timestamps
    (n,), None where one is missing; the ids of users and of items."""
    rows = raw.interactions
    users, user_names = _places(_column(rows, "user"), raw.user_ids)
    missing = rows.select(pl.col("rating", "timestamp").null_count()).collect().row(0, named=True)
    timed = not missing["timestamp"]
    by_age = _oldest_first(users, (_column(rows, name) for name in ("timestamp", "order")[not timed :]))
    users = _taken(users, by_age)
    items, item_names = _places(_column(rows, "item"), raw.item_ids)
    items = _taken(items, by_age)
    ratings = None if missing["rating"] else _taken(_column(rows, "rating"), by_age)
    timestamps = _taken(_column(rows, "timestamp"), by_age) if timed else None
    return users, items, ratings, timestamps, user_names, item_names


def _column(interactions: pl.LazyFrame, name: str) -> np.ndarray:
    return interactions.select(name).collect(engine="streaming").to_series().to_numpy()


def _places(numbers: np.ndarray, ids: pl.Series) -> tuple[np.ndarray, pl.Series]:
    """The place of the id of each of `numbers` among the sorted ones: (n,) int32; and these."""
    used = np.flatnonzero(np.bincount(numbers))
    order = ids.gather(used).arg_sort().to_numpy()
    names = ids.gather(used[order])
    new = (names != names.shift()).fill_null(True)
    places = np.empty(len(ids), np.int32)
    places[used[order]] = np.cumsum(new.to_numpy(), dtype=np.int32) - 1
    return places[numbers], names.filter(new)


def _oldest_first(users: np.ndarray, ages: Iterable[np.ndarray]) -> np.ndarray:
    """The order of the rows by user, then by each of `ages`, then as they stand. It is sorted by one number that holds
    them all, where 63 bits are enough for it: far faster."""
    key, bits, ages = users.astype(np.int64), int(users.max(initial=0)).bit_length(), list(ages)
    for age in ages:
        least = int(age.min(initial=0))
        width = (int(age.max(initial=0)) - least).bit_length()
        bits += width
        if bits > 63:
            return np.lexsort((*reversed(ages), users))
        key <<= width  # in place, as are the next: a large table has little room
        key += age
        key -= least
    del ages
    upto = np.cumsum(np.bincount(users))
    last = np.searchsorted(upto, len(users) * np.arange(1, SHARES) / SHARES)  # users of all shares but the last

    def share(low: int, high: int) -> np.ndarray:
        rows = np.flatnonzero((users > low) & (users <= high)).astype(_number_type(len(users)))
        return rows[np.argsort(key[rows], kind="stable")]

    return np.concatenate(_by_threads(lambda ends: share(*ends), pairwise([-1, *last, len(upto)])))


def _number_type(rows: int) -> type[np.signedinteger]:
    """What the numbers of so many rows fit into."""
    return np.int32 if rows < 2**31 else np.int64


def _touched(
    users: np.ndarray,
    items: np.ndarray,
    positive: np.ndarray,
    user_numbers: np.ndarray,
    item_numbers: np.ndarray,
    n_items: int,
) -> Touched:
    """Of all rows, by user and oldest first; `positive`: the numbers of the rows that stay."""
    liked = np.zeros(len(users), bool)
    liked[positive] = True

    def pairs(block: slice) -> tuple[np.ndarray, np.ndarray]:
        owners, numbers = user_numbers[users[block]], item_numbers[items[block]]
        upto = np.cumsum(liked[block], dtype=np.int32) - liked[block]
        first, rows = _runs(users[block])
        since = upto - np.repeat(upto[first], rows)
        seen = np.flatnonzero((owners >= 0) & (numbers >= 0))
        keys, places = first_of(pair_keys(owners[seen], numbers[seen], n_items))
        return keys, since[seen[places]]

    parts = _by_threads(pairs, user_blocks(users))
    counts = np.zeros(user_numbers.max(initial=-1) + 2, np.int64)  # pairs of each user, from place 1
    for keys, _ in parts:  # of whole users
        owners = keys // n_items
        first, held = _runs(owners)
        counts[owners[first] + 1] = held
    keys, since, offsets = np.empty(counts.sum(), np.int64), np.empty(counts.sum(), np.int32), np.cumsum(counts)

    def put(part: tuple[np.ndarray, np.ndarray]) -> None:
        own, own_since = part
        place = _by_owner(own // n_items, offsets)
        keys[place], since[place] = own, own_since

    _by_threads(put, parts)
    return Touched(keys, since, n_items)


def _by_owner(owners: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """The places of rows in the order of their owners, where each owner's rows stand together; offsets[i] is the first
    place of owner i."""
    first, rows = _runs(owners)
    return np.arange(len(owners)) + np.repeat(offsets[owners[first]] - first, rows)


def _runs(owners: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first place of each owner's rows, which stand together, and how many they are."""
    first = np.flatnonzero(np.diff(owners, prepend=-1))
    return first, np.diff(first, append=len(owners))


def _shuffled(codes: np.ndarray, size: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The distinct `codes` in random order, and for each of `size` codes its place there (-1: not among them)."""
    kept = rng.permutation(np.flatnonzero(np.bincount(codes)))
    numbers = np.full(size, -1, np.int64)
    numbers[kept] = np.arange(len(kept))
    return kept, numbers


def _nothing_left(steps: list[dict[str, Any]], data: DataSet) -> str:
    counts = "; ".join(f"{s['step']} {s['users']} users, {s['items']} items, {s['interactions']} rows" for s in steps)
    left = {step["step"]: step["interactions"] for step in steps}
    if not left["item with a text"]:
        advice = (
            "no item of the interactions has a title and a text in the items file: check that their item ids are the "
            "same, and item_text"
        )
    elif not left["positive"]:
        advice = f"lower positive_rating ({data.positive_rating:g})"
    else:
        sample = "" if data.max_users is None else f", or raise max_users ({data.max_users})"
        advice = f"lower user_core ({data.user_core}) or item_core ({data.item_core}){sample}"
    return f"no users are left after the filters. Left after each step: {counts}. {advice[0].upper()}{advice[1:]}."
