"""Raw files of any kind -> the same two tables, and the rows that could not be read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.datasets.kind import Interactions, Items
from fisher_ld.datasets.rows import Row
from fisher_ld.datasets.titles import categories, clean, text

BATCH_ROWS = 50_000
YEAR_2100 = 4_102_444_800  # seconds since 1970; milliseconds taken for seconds lie far beyond
INTERACTIONS = {
    "user": pl.String,
    "item": pl.String,
    "rating": pl.Float64,
    "timestamp": pl.Int64,
    "order": pl.Int64,
    "row": pl.Int64,
}
REJECTED = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}
RAW_CHARACTERS = 2000  # of an unreadable row that are kept


@dataclass(frozen=True)
class Raw:
    """interactions: user str, item str, rating f64 or null, timestamp i64 (seconds) or null, order i64, row i64.
    items: item str (unique), title str or null, categories list[str], and the fields asked for (str or null).
    rejected: file, row, reason, raw. rows: file -> rows in it, readable or not."""

    interactions: pl.LazyFrame
    items: pl.DataFrame
    rejected: pl.DataFrame
    rows: Mapping[str, int]


def read_source(raw_dir: Path, source: DataSource, work_dir: Path, fields: Sequence[str] = ()) -> Raw:
    """Reads the files of `source.kind` in `raw_dir`. Interactions go through `work_dir`/interactions.parquet in
    batches. `fields`: what `items` must hold besides title and categories. Raises UserError for a missing or empty
    file, a missing column, or a field that no item has."""
    interactions, items = SOURCES[source.kind].read(raw_dir, source)
    rejects = _Rejects()
    target = work_dir / "interactions.parquet"
    _write_interactions(interactions, rejects, target)
    table = _read_items(items, rejects, [name for name in fields if name not in ("title", "categories")])
    for path in (interactions.path, items.path):
        if not rejects.rows[path.name]:
            raise UserError(f"{path}: expected rows, got none below the header; run dvc repro -f download")
    return Raw(pl.scan_parquet(target), table, rejects.frame(), dict(rejects.rows))


class _Rejects:
    """Counts all rows, keeps the unreadable ones."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, str, str]] = []
        self.rows: Counter[str] = Counter()

    def readable(self, path: Path, rows: Iterable[Row]) -> Iterator[Row]:
        name = path.name
        for row in rows:
            self.rows[name] += 1
            if row.reason is None:
                yield row
            else:
                self.add(path, row, row.reason)

    def add(self, path: Path, row: Row, reason: str) -> None:
        raw = row.raw or json.dumps(row.record, default=str, ensure_ascii=False)
        self.kept.append((path.name, row.number, reason, raw[:RAW_CHARACTERS]))

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self.kept, schema=REJECTED, orient="row").sort("file", "row", maintain_order=True)


def _write_interactions(source: Interactions, rejects: _Rejects, target: Path) -> None:
    fields = {"user": source.user, "item": source.item}
    optional = {"rating": source.rating, "timestamp": source.timestamp, "order": source.order}
    fields |= {name: field for name, field in optional.items() if field is not None}
    with pq.ParquetWriter(target, pl.DataFrame(schema=INTERACTIONS).to_arrow().schema) as writer:
        rows = rejects.readable(source.path, source.rows)
        while batch := list(islice(rows, BATCH_ROWS)):
            values = {name: [text(row.record.get(field)) for row in batch] for name, field in fields.items()}
            table = pl.DataFrame(values, schema=dict.fromkeys(fields, pl.String))
            checked = _check(table.with_columns(row=pl.Series([row.number for row in batch], dtype=pl.Int64)), source)
            for row, reason in zip(batch, checked["reason"], strict=True):
                if reason is not None:
                    rejects.add(source.path, row, reason)
            good = checked.filter(pl.col("reason").is_null()).select(*INTERACTIONS)
            writer.write_table(good.to_arrow())


def _check(frame: pl.DataFrame, source: Interactions) -> pl.DataFrame:
    """Numbers out of text, and the first reason (if any) why a row cannot be used."""

    def number(name: str) -> pl.Expr:
        return pl.col(name).cast(pl.Float64, strict=False)

    def reasons(name: str, what: str, possible: pl.Expr) -> list[pl.Expr]:
        missing = pl.when(pl.col(name).is_null()).then(pl.lit(f"missing {what}"))
        return [missing, pl.when(~possible.fill_null(False)).then(pl.lit(f"impossible {what}"))]

    reason = [pl.when(pl.col(name).is_null()).then(pl.lit(f"missing {name} id")) for name in ("user", "item")]
    rating, timestamp, order = pl.lit(None, pl.Float64), pl.lit(None, pl.Int64), pl.col("row")
    if source.rating is not None:
        rating = number("rating")
        reason += reasons("rating", "rating", rating.is_finite() & rating.is_between(*source.ratings))
    if source.timestamp is not None:
        seconds = number("timestamp") / (1000 if source.milliseconds else 1)
        unit = "milliseconds" if source.milliseconds else "seconds"
        reason += reasons("timestamp", f"time in {unit} since 1970", (seconds > 0) & (seconds < YEAR_2100))
        timestamp = seconds.floor().cast(pl.Int64, strict=False)
    if source.order is not None:
        order = number("order").cast(pl.Int64, strict=False)
        reason += reasons("order", "order", number("order").is_finite() & order.is_not_null())
    return frame.select(
        "user",
        "item",
        rating.alias("rating"),
        timestamp.alias("timestamp"),
        order.alias("order"),
        "row",
        pl.coalesce(reason).alias("reason"),
    )


def _read_items(source: Items, rejects: _Rejects, fields: Sequence[str]) -> pl.DataFrame:
    found: dict[str, tuple[Any, ...]] = {}
    available: dict[str, None] = {}
    for row in rejects.readable(source.path, source.rows):
        item = text(row.record.get(source.item))
        if item is None:
            rejects.add(source.path, row, "missing item id")
            continue
        described = source.describe(row.record)
        available |= dict.fromkeys(described)
        if item not in found:
            extra = (clean(described.get(name)) for name in fields)
            found[item] = (item, clean(described["title"]), categories(described["categories"]), *extra)
    if unknown := [name for name in fields if name not in available]:
        raise UserError(
            f"item_text names {', '.join(f'{{{name}}}' for name in unknown)}, which no item in {source.path} has; "
            f"it may name {', '.join(f'{{{name}}}' for name in available)}"
        )
    schema = {"item": pl.String, "title": pl.String, "categories": pl.List(pl.String)} | dict.fromkeys(
        fields, pl.String
    )
    return pl.DataFrame(list(found.values()), schema=schema, orient="row")
