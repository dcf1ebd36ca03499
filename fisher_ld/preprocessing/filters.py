"""From all interactions to the positives of the users and items that stay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.splits import stream
from fisher_ld.preprocessing.touched import Touched, pair_keys

AT_ONCE = 20_000_000  # rows that are looked at in one go


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
    for block in user_blocks(users):
        keys = pair_keys(users[block], items[block], int(items[block].max()) + 1)
        first[block.start + first_of(keys)[1]] = True
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
    interactions: pl.LazyFrame, items_with_text: pl.Series, data: DataSet, seed: int
) -> tuple[Positives, list[dict[str, Any]]]:
    """`interactions` as `readers.Raw` has them; items not among `items_with_text` are dropped. `data.max_users` are
    drawn of those with enough positives, before the k-core. Also returns what was left after each step: step, users,
    items, interactions. Raises UserError if nothing is."""
    users, items, ratings, timestamps, user_names, item_names = _coded(interactions)
    steps: list[dict[str, Any]] = []

    def count(step: str, rows: np.ndarray) -> None:
        left = {name: np.count_nonzero(np.bincount(c[rows])) for name, c in (("users", users), ("items", items))}
        steps.append({"step": step, **left, "interactions": len(rows)})

    rows = np.arange(len(users), dtype=np.int32 if len(users) < 2**31 else np.int64)
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
    rows = rows[np.argsort(user_numbers[users[rows]], kind="stable")]
    lengths = np.bincount(user_numbers[users[rows]], minlength=len(kept_users))
    positives = Positives(
        user_names=user_names.gather(kept_users).to_numpy(),
        item_names=item_names.gather(kept_items).to_numpy(),
        items=item_numbers[items[rows]],
        timestamps=None if timestamps is None else timestamps[rows],
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        touched=touched,
    )
    return positives, steps


def _coded(interactions: pl.LazyFrame) -> tuple[Any, ...]:
    """All interactions by user, oldest first: users, items (n,) int32, as places in the sorted ids; ratings, timestamps
    (n,), None where one is missing; the ids of users and of items."""
    users, user_names = _places(interactions, "user")
    missing = interactions.select(pl.col("rating", "timestamp").null_count()).collect().row(0, named=True)
    timed = not missing["timestamp"]
    by_age = _oldest_first(users, (_column(interactions, name) for name in ("timestamp", "order")[not timed :]))
    users = users[by_age]
    items, item_names = _places(interactions, "item")
    items = items[by_age]
    ratings = None if missing["rating"] else _column(interactions, "rating")[by_age]
    timestamps = _column(interactions, "timestamp")[by_age] if timed else None
    return users, items, ratings, timestamps, user_names, item_names


def _column(interactions: pl.LazyFrame, name: str) -> np.ndarray:
    return interactions.select(name).collect(engine="streaming").to_series().to_numpy()


def _places(interactions: pl.LazyFrame, column: str) -> tuple[np.ndarray, pl.Series]:
    """The place of each id among the sorted ones: (n,) int32; and these."""
    numbered = pl.Categorical(pl.Categories.random())
    codes = interactions.select(pl.col(column).cast(numbered)).collect(engine="streaming").to_series()
    names = codes.unique().to_frame().select(pl.col(column).to_physical().alias("code"), pl.col(column).cast(pl.String))
    names = names.sort(column)
    numbers = names["code"].to_numpy()
    places = np.empty(numbers.max(initial=0) + 1, np.int32)
    places[numbers] = np.arange(len(names), dtype=np.int32)
    return places[codes.to_physical().to_numpy()], names[column]


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
    return np.argsort(key, kind="stable")


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
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    counts = np.zeros(user_numbers.max(initial=-1) + 2, np.int64)  # pairs of each user, from place 1
    for block in user_blocks(users):
        owners, numbers = user_numbers[users[block]], item_numbers[items[block]]
        upto = np.cumsum(liked[block]) - liked[block]
        since = (upto - upto[np.searchsorted(users[block], users[block])]).astype(np.int32)
        seen = (owners >= 0) & (numbers >= 0)
        keys, first = first_of(pair_keys(owners[seen], numbers[seen], n_items))
        parts.append((keys, since[seen][first]))
        counts[1:] += np.bincount(keys // n_items, minlength=len(counts) - 1)
    keys, since, offsets = np.empty(counts.sum(), np.int64), np.empty(counts.sum(), np.int32), np.cumsum(counts)
    for own, own_since in parts:  # of whole users, by number
        owners = own // n_items
        place = offsets[owners] + np.arange(len(own)) - np.searchsorted(owners, owners)
        keys[place], since[place] = own, own_since
    return Touched(keys, since, n_items)


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
