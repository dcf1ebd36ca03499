"""Seconds of reading a synthetic table of interactions, and of filters and k-core: ours, and pandas' default engine,
once at positives alone and once at all that ours gives; and of the whole stage, as params.yaml has it. Each is in a
process of its own, for its peak memory.

    python -m benchmarks.preprocess [--rows 2000000] [--odd 0.0 | --json] [--alone]

Ours includes what no time of pandas does: a reason for every row that cannot be used, the rows written as Parquet.
`--odd`: share of rows that lack a field, for which the careful reader is needed (pandas is then left out). `--json`:
reviews as Amazon has them, an object of 600 bytes a line.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from fisher_ld.config.params import Columns, DataSet, DataSource, load_params
from fisher_ld.preprocessing.filters import keep_positives
from fisher_ld.preprocessing.preprocess import preprocess
from fisher_ld.preprocessing.readers import read_source
from fisher_ld.preprocessing.times import YEAR_2100

CHUNK, CORE = 1_000_000, 5
REVIEW = r"Bought it for my sister, who says \"it works\".\nThe box was open, though. " * 6
COLUMNS = Columns(user="user_id", item="item_id", rating="rating", timestamp="timestamp", title="title")


def generate(folder: Path, rows: int, odd: float, json: bool) -> Path:
    """Users and items by rank, popular ones more often; Amazon-like ids."""
    rng, path = np.random.default_rng(0), folder / ("interactions.jsonl" if json else "interactions.csv")
    n_users, n_items = max(rows // 20, 1), max(rows // 100, 200)
    with path.open("w") as file:
        if not json:
            file.write("user_id,item_id,rating,timestamp\n")
        for begin in range(0, rows, CHUNK):
            n = min(CHUNK, rows - begin)
            users, items = (rng.random(n) ** 2 * size for size in (n_users, n_items))
            table = pl.DataFrame(
                {
                    "user": pl.Series(users.astype(int)).cast(pl.String).str.pad_start(9, "0"),
                    "item": pl.Series(items.astype(int)).cast(pl.String).str.pad_start(8, "0"),
                    "rating": rng.integers(1, 6, n),
                    "timestamp": 1_400_000_000 + rng.integers(0, 10**8, n),
                }
            ).with_columns(pl.format("A{}", "user").alias("user"), pl.format("B{}", "item").alias("item"))
            lines = _reviews(table) if json else table.write_csv(include_header=False)
            if odd:
                drawn = rng.random(n) < odd
                lines = "".join(
                    "A,B\n" if lost else f"{line}\n" for line, lost in zip(lines.splitlines(), drawn, strict=True)
                )
            file.write(lines)
    items = pl.DataFrame({"item_id": [f"B{i:08d}" for i in range(n_items)]})
    items.with_columns(title="Title " + pl.col("item_id")).write_csv(folder / "items.csv")
    return path


def _reviews(table: pl.DataFrame) -> str:
    extra = pl.lit(f'"title": "Five stars", "text": "{REVIEW}", "images": [], "verified": true')
    form = '{"user_id": "%s", "item_id": "%s", "rating": %s, "timestamp": %s, %s}\n'.replace("%s", "{}")
    parts = iter([*(pl.col(name).cast(pl.String) for name in table.columns), extra])
    pieces = [piece for text in form.split("{}") for piece in (pl.lit(text), next(parts, pl.lit("")))]
    return "".join(table.select(pl.concat_str(pieces)).to_series())


def data_set() -> DataSet:
    source = DataSource(kind="table", interactions="x", items="x", columns=COLUMNS)
    of_films = load_params(Path("params.yaml"), {}).data_sets["movielens-100k"]
    return of_films.model_copy(update={"source": source, "item_text": "{title}", "max_users": None})


def stage(folder: Path) -> tuple[float, float, int]:
    """Seconds of all that preprocess does, and the positives that stay."""
    began = time.perf_counter()
    report = preprocess(folder, folder / "processed", data_set(), 0)
    return time.perf_counter() - began, 0.0, report["filters"][-1]["interactions"]


def ours(folder: Path) -> tuple[float, float, int]:
    """Seconds of reading, of filters and k-core, and the positives that stay."""
    data, began = data_set(), time.perf_counter()
    raw = read_source(folder, data.source, folder / "work", missing=data.missing)
    read = time.perf_counter()
    positives, _ = keep_positives(raw, raw.items["item"], data, 0)
    return read - began, time.perf_counter() - read, len(positives.items)


def pandas(folder: Path) -> tuple[float, float, int]:
    """What is in few lines: positives of known items, the first of each user and item, k-core."""
    began = time.perf_counter()
    table, items = _read_by_pandas(folder)
    read = time.perf_counter()
    table = table[table.item_id.isin(items.item_id) & (table.rating >= 4)]
    table = table.sort_values(["user_id", "timestamp"], kind="stable").drop_duplicates(["user_id", "item_id"])
    return read - began, time.perf_counter() - read, len(_core(table))


def pandas_all(folder: Path) -> tuple[float, float, int]:
    """All that ours gives: rows that cannot be used left out, and what each user touched, with the number of positives
    before."""
    began = time.perf_counter()
    table, items = _read_by_pandas(folder)
    numbers = table[["rating", "timestamp"]].apply(pd.to_numeric, errors="coerce")
    table = table[
        table.user_id.notna()
        & table.item_id.notna()
        & np.isfinite(numbers.rating)
        & numbers.timestamp.between(1, YEAR_2100 - 1)
    ]
    read = time.perf_counter()
    table = table.sort_values(["user_id", "timestamp"], kind="stable", ignore_index=True)
    likes = table[table.item_id.isin(items.item_id) & (table.rating >= 4)]
    likes = _core(likes.drop_duplicates(["user_id", "item_id"]))
    inside = table.user_id.isin(likes.user_id.unique()) & table.item_id.isin(likes.item_id.unique())
    touched = table.loc[inside, ["user_id", "item_id"]].assign(liked=table.index[inside].isin(likes.index))
    touched["since"] = touched.groupby("user_id").liked.cumsum() - touched.liked
    touched = touched.drop_duplicates(["user_id", "item_id"])
    return read - began, time.perf_counter() - read, len(likes)


def _read_by_pandas(folder: Path) -> tuple[Any, Any]:
    reviews = folder / "interactions.jsonl"
    table = pd.read_json(reviews, lines=True) if reviews.exists() else pd.read_csv(folder / "interactions.csv")
    return table[["user_id", "item_id", "rating", "timestamp"]], pd.read_csv(folder / "items.csv")


def _core(table: Any) -> Any:
    while True:
        users, items = (table.groupby(name)[name].transform("size") for name in ("user_id", "item_id"))
        enough = (users >= CORE) & (items >= CORE)
        if enough.all():
            return table
        table = table[enough]


def measured(work: Callable[[Path], tuple[float, float, int]], folder: Path, answers: Any) -> None:
    result = work(folder)
    answers.put((*result, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--odd", type=float, default=0.0)
    parser.add_argument("--json", action="store_true", help="JSON lines with reviews")
    parser.add_argument("--alone", action="store_true", help="ours alone, where pandas would take too much memory")
    options = parser.parse_args()
    spawn = get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = generate(folder, options.rows, options.odd, options.json)
        (folder / "work").mkdir()
        print(f"{options.rows} rows, {path.stat().st_size / 2**20:.0f} MiB", flush=True)
        for work in (stage, ours) if options.odd or options.alone else (stage, ours, pandas, pandas_all):
            answers = spawn.Queue()
            process = spawn.Process(target=measured, args=(work, folder, answers))
            process.start()
            process.join()
            if process.exitcode:
                print(f"{work.__name__}: ended with exit code {process.exitcode}")
                continue
            read, filtered, left, peak = answers.get()
            parts = (
                f"read in {read:.2f} s ({options.rows / read:,.0f} rows/s), filters and k-core {filtered:.2f} s, "
                if filtered
                else ""
            )
            print(
                f"{work.__name__}: {parts}together {read + filtered:.2f} s; {left} positives stay; peak {peak:.2f} GiB"
            )


if __name__ == "__main__":
    main()
