"""Seconds of reading a synthetic table of interactions: ours, checked and typed, against pandas.read_csv as it comes.

    python -m benchmarks.preprocess [--rows 2000000] [--odd 0.0]

Ours includes what pandas' time does not: ids as text, every row checked, the result written as Parquet. `--odd`: share
of rows that lack a field, for which the careful reader is needed (pandas is then left out).
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.preprocessing.readers import read_source

CHUNK = 1_000_000
COLUMNS = Columns(user="user_id", item="item_id", rating="rating", timestamp="timestamp", title="title")


def generate(folder: Path, rows: int, odd: float) -> Path:
    """Users and items by rank, popular ones more often; Amazon-like ids."""
    rng, path = np.random.default_rng(0), folder / "interactions.csv"
    with path.open("w") as file:
        file.write("user_id,item_id,rating,timestamp\n")
        for begin in range(0, rows, CHUNK):
            n = min(CHUNK, rows - begin)
            users, items = (rng.random(n) ** 2 * size for size in (max(rows // 20, 1), 20_000))
            table = pl.DataFrame(
                {
                    "user": pl.Series(users.astype(int)).cast(pl.String).str.pad_start(9, "0"),
                    "item": pl.Series(items.astype(int)).cast(pl.String).str.pad_start(8, "0"),
                    "rating": rng.integers(1, 6, n),
                    "timestamp": 1_400_000_000 + rng.integers(0, 10**8, n),
                }
            ).with_columns(pl.format("A{}", "user").alias("user"), pl.format("B{}", "item").alias("item"))
            lines = table.write_csv(include_header=False)
            if odd:
                drawn = rng.random(n) < odd
                lines = "".join(
                    "A,B\n" if lost else f"{line}\n" for line, lost in zip(lines.splitlines(), drawn, strict=True)
                )
            file.write(lines)
    items = pl.DataFrame({"item_id": [f"B{i:08d}" for i in range(20_000)]})
    items.with_columns(title="Title " + pl.col("item_id")).write_csv(folder / "items.csv")
    return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--odd", type=float, default=0.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = generate(folder, options.rows, options.odd)
        (folder / "work").mkdir()
        source = DataSource(kind="table", interactions="x", items="x", columns=COLUMNS)
        began = time.perf_counter()
        raw = read_source(folder, source, folder / "work")
        ours = time.perf_counter() - began
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        read = raw.interactions.select(pl.len()).collect().item()
        print(f"{options.rows} rows, {path.stat().st_size / 2**20:.0f} MiB; {read} read, {len(raw.rejected)} rejected")
        print(f"ours: {ours:.2f} s, {options.rows / ours:,.0f} rows/s, peak {peak:.2f} GiB with the generator's")
        if not options.odd:
            began = time.perf_counter()
            pd.read_csv(path)
            print(f"pandas.read_csv: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
