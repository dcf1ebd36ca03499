"""Test lists as a ranker meets them in a deployment: the best of a first stage, which has all labels; on cold items,
where likes tell nothing, TF-IDF."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl

from fisher_ld.batches.lists import COLUMNS, MAIN, Lists, make_lists
from fisher_ld.config.paths import for_tests
from fisher_ld.core.files import atomic_path
from fisher_ld.evaluation.baselines.catalogue import RIVALS
from fisher_ld.evaluation.baselines.tuning import Fitted

SIZE = 100  # candidates that the first stage hands on
AT_ONCE = 64  # lists


def choose_first_stage(quality: Mapping[str, float], cold: bool) -> str:
    """Of the rivals that have all labels the one with the highest `quality`; TF-IDF where the test items are `cold`."""
    if cold:
        return "tf-idf"
    return max((name for name in quality if RIVALS[name].labels == "all"), key=quality.__getitem__)


def read_cold(processed: Path) -> np.ndarray:
    """Which items occur in no training list: (items,) bool."""
    return pl.read_parquet(processed / "items.parquet", columns=["item", "cold"]).sort("item")["cold"].to_numpy()


def read_touched(processed: Path) -> dict[int, np.ndarray]:
    """Test user -> the items of all interactions, liked or not."""
    table = pl.read_parquet(for_tests(processed) / "users.parquet", columns=["user", "touched"])
    return {user: np.asarray(items, np.int64) for user, items in table.iter_rows()}


def pools(tests: Mapping[str, Lists], cold: np.ndarray, touched: Mapping[int, np.ndarray]) -> list[np.ndarray]:
    """What the first stage chooses from, for each list of the main family: the items that the user never `touched` and
    the true one; where some are `cold`, only those of test lists."""
    main = tests[MAIN]
    eligible = np.arange(len(cold))
    if cold.any():
        eligible = np.unique(np.concatenate([items for lists in tests.values() for items in lists.candidates]))
    return [
        np.union1d(np.setdiff1d(eligible, touched[user]), candidates[place])
        for user, candidates, place in zip(main.user, main.candidates, main.positive, strict=True)
    ]


class TwoStage(NamedTuple):
    lists: Lists
    missing: np.ndarray  # (lists,) bool: the first stage left the true item out


def two_stage(fitted: Fitted, main: Lists, pools: list[np.ndarray], seed: int) -> TwoStage:
    """The SIZE best of each pool by the scores of `fitted`, in random order, equal ones drawn. A true item that is
    not among them takes the place of the last."""
    rng = np.random.default_rng(seed)
    chosen: list[np.ndarray] = []
    places, missing = np.zeros(len(main), np.int64), np.zeros(len(main), bool)
    true_items = [candidates[place] for candidates, place in zip(main.candidates, main.positive, strict=True)]
    for begin in range(0, len(main), AT_ONCE):
        numbers = np.arange(begin, min(begin + AT_ONCE, len(main)))
        columns = {name: getattr(main, name)[numbers] for name in COLUMNS}
        block = make_lists(columns, [pools[number] for number in numbers], main.sequences)
        for number, items, scores in zip(numbers, block.candidates, fitted.score(block), strict=True):
            best = items[np.lexsort((rng.random(len(items)), -scores))[:SIZE]]
            missing[number] = true_items[number] not in best
            if missing[number]:
                best[-1] = true_items[number]
            chosen.append(rng.permutation(best))
            places[number] = np.flatnonzero(chosen[-1] == true_items[number])[0]
    columns = {"user": main.user, "start": main.start, "position": main.position, "positive": places}
    return TwoStage(make_lists(columns, chosen, main.sequences), missing)


def write_lists(path: Path, lists: Lists) -> None:
    """As `preprocess` writes the other families."""
    columns = {"list": np.arange(len(lists)), **{name: getattr(lists, name) for name in (*COLUMNS, "candidates")}}
    schema = {name: pl.Int32 for name in ("list", *COLUMNS)} | {"candidates": pl.List(pl.Int32)}
    with atomic_path(path) as temporary:
        pl.DataFrame(columns, schema).write_parquet(temporary)
