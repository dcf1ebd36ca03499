"""The stored candidate lists: one positive, its negatives, and where its history lies."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.filters import Positives
from fisher_ld.preprocessing.negatives import available, sample_negatives
from fisher_ld.preprocessing.splits import Split, block_starts, stream, train_positions


def write_lists(
    folder: Path,
    positives: Positives,
    split: Split,
    training: np.ndarray,
    evaluated: np.ndarray,
    chosen: np.ndarray,
    counts: np.ndarray,
    data: DataSet,
    seed: int,
) -> None:
    """Writes train, val, test_popularity and test_uniform.parquet. `training`, `evaluated`: which users have lists to
    train on, and to validate and test on, (users,) bool. `chosen`: numbers of the users whose uniform lists are kept.
    `counts`: train positives of each item, (items,). Raises UserError if a family has no list, or a user has too few
    items left to draw."""
    popularity = counts.astype(np.float64) ** data.negative_power
    users, positions = train_positions(split.train_end, np.flatnonzero(training), data.train_positives)
    starts = block_starts(split.train_end[users], positions, data.history_length, data.history_block)
    families = {"train": (users, starts, positions, popularity)}
    uniform = np.ones(len(counts))
    for name, ends, weights in (
        ("val", split.val, popularity),
        ("test_popularity", split.test, popularity),
        ("test_uniform", split.test, uniform),
    ):
        users = np.flatnonzero(evaluated & (ends >= 0))
        families[name] = (users, np.maximum(0, ends[users] - data.history_length), ends[users], weights)

    for name, (users, starts, positions, weights) in families.items():
        key = "train_negatives" if name == "train" else "eval_negatives"
        count = data.train_negatives if name == "train" else data.eval_negatives
        _check_drawable(name, key, count, users, weights, positives)
        drawn = sample_negatives(users, count, weights, positives.touched, stream(seed, f"negatives {name}"))
        true_items = positives.items[positives.offsets[users] + positions]
        candidates, places = _shuffle(true_items, drawn, stream(seed, f"places {name}"))
        columns = {
            "list": pl.Series(np.arange(len(users)), dtype=pl.Int32),
            "user": pl.Series(users, dtype=pl.Int32),
            "start": pl.Series(starts, dtype=pl.Int32),
            "position": pl.Series(positions, dtype=pl.Int32),
            "candidates": pl.Series(candidates.astype(np.int32)).cast(pl.List(pl.Int32)),
            "positive": pl.Series(places, dtype=pl.Int16),
        }
        lists = pl.DataFrame(columns)
        if name == "test_uniform":  # drawn for all, so that a list does not depend on who else is chosen
            lists = lists.filter(np.isin(users, chosen)).with_columns(list=pl.int_range(pl.len(), dtype=pl.Int32))
        lists.write_parquet(folder / f"{name}.parquet")


def _shuffle(true_items: np.ndarray, drawn: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Candidates (lists, 1 + negatives), each list in an order of its own so that the positive's place carries
    nothing, and that place (lists,)."""
    candidates = np.concatenate([true_items[:, None], drawn], axis=1)
    order = np.argsort(rng.random(candidates.shape), axis=1, kind="stable")
    return np.take_along_axis(candidates, order, axis=1), np.argmin(order, axis=1)


def _check_drawable(
    name: str, key: str, count: int, users: np.ndarray, weights: np.ndarray, positives: Positives
) -> None:
    if not len(users):
        raise UserError(
            f"no {name} lists: none of the {len(positives.lengths)} users has a positive with a history for one (the "
            f"longest sequence has {positives.lengths.max()} positives). Raise user_core, or use more data."
        )
    left = available(len(positives.lengths), weights, positives.touched)[users]
    if (left < count).any():
        worst = positives.user_names[users[np.argmin(left)]]
        raise UserError(
            f"{key}: {name} lists need {count} items that the user never touched, but "
            f"{len(np.unique(users[left < count]))} users have fewer (user {worst} has {left.min()}, of "
            f"{np.count_nonzero(weights)} items to draw from). Lower {key} or item_core, or use more data."
        )
