"""Raw files of any kind -> the same two tables, and the rows that could not be read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import say
from fisher_ld.datasets.blocks import Block
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.datasets.kind import Interactions, Items
from fisher_ld.datasets.titles import categories, clean, text
from fisher_ld.preprocessing.ids import PADDED, same_id, same_ids
from fisher_ld.preprocessing.times import Clock, find_clock

INTERACTIONS = {  # as they lie in the file: of ids the numbers
    "user": pl.UInt32,
    "item": pl.UInt32,
    "rating": pl.Float64,
    "timestamp": pl.Int64,
    "order": pl.Int64,
}
REJECTED = {"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String}
COMMA = r"^(-?\d+),(\d+)$"
RAW_CHARACTERS = 2000  # of an unreadable row that are kept


@dataclass(frozen=True)
class Raw:
    """interactions: user u32, item u32, rating f64 or null, timestamp i64 (seconds) or null, order i64 (the source's,
    or nanoseconds beyond the second, else 0). user_ids, item_ids: str, of these numbers; several may have one id.
    items: item str (unique), title str or null, categories list[str], and the fields asked for (str or null). rejected:
    file, row, reason, raw. rows: file -> rows in it, readable or not. repeated: items that have several rows."""

    interactions: pl.LazyFrame
    user_ids: pl.Series
    item_ids: pl.Series
    items: pl.DataFrame
    rejected: pl.DataFrame
    rows: Mapping[str, int]
    repeated: int


def read_source(
    raw_dir: Path, source: DataSource, work_dir: Path, fields: Sequence[str] = (), missing: Collection[str] = ()
) -> Raw:
    """Reads the files of `source.kind` in `raw_dir`. Interactions go through `work_dir`/interactions.parquet in
    blocks. `fields`: what `items` must hold besides title and categories. `missing`: words of a user's table that
    stand for nothing. Raises UserError for a missing or empty file, a missing column, or a field that no item has."""
    interactions, items = SOURCES[source.kind].read(raw_dir, source)
    rejects, missing = _Rejects(), frozenset(missing if interactions.own else ())
    target = work_dir / "interactions.parquet"
    user_ids, item_ids, numbers = _write_interactions(interactions, missing, rejects, target)
    _check_any(interactions.path, rejects.rows.total())
    if "item" in fields:
        raise UserError("item_text names {item}, which is the id of an item here: rename this column of the items file")
    others, before = [name for name in fields if name not in ("title", "categories")], rejects.rows.total()
    table, repeated, others_numbers = _read_items(items, missing, rejects, others)
    _check_any(items.path, rejects.rows.total() - before)
    unpadded = pl.col("item").str.replace(PADDED, "$1")
    if others_numbers and not numbers:  # 007 and the number 7; text on both sides stays as it is
        item_ids = item_ids.to_frame().select(unpadded).to_series()
    elif numbers and not others_numbers and table.select(unpadded.is_unique().all()).item():
        table = table.with_columns(unpadded)
    return Raw(pl.scan_parquet(target), user_ids, item_ids, table, rejects.frame(), dict(rejects.rows), repeated)


def _check_any(path: Path, rows: int) -> None:
    if not rows:
        raise UserError(f"{path}: expected rows, got none below the header; run dvc repro -f download")


class _Rejects:
    """Counts all rows, keeps the unreadable ones."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int, str, str]] = []
        self.rows: Counter[str] = Counter()

    def count(self, block: Block) -> None:
        self.rows[block.file] += len(block.table) + len(block.bad)
        for row in block.bad:
            self._keep(block.file, row.number, row.reason or "", row.raw)

    def add(self, block: Block, place: int, reason: str) -> None:
        raw = block.raw(place)
        if not raw and block.careful is not None:
            raw = json.dumps(block.careful[place].record, default=str, ensure_ascii=False)
        self._keep(block.file, block.numbers[place], reason, raw)

    def of(self, block: Block, reasons: pl.Series) -> None:
        """`reasons`: of each row of the block's table, null of a good one."""
        self.count(block)
        for i in reasons.is_not_null().arg_true():
            self.add(block, int(i), reasons[i])

    def _keep(self, file: str, row: int, reason: str, raw: str) -> None:
        self.kept.append((file, row, reason, raw[:RAW_CHARACTERS]))

    def frame(self) -> pl.DataFrame:
        return pl.DataFrame(self.kept, schema=REJECTED, orient="row").sort("file", "row", maintain_order=True)


def _write_interactions(
    source: Interactions, missing: Collection[str], rejects: _Rejects, target: Path
) -> tuple[pl.Series, pl.Series, bool]:
    """Ids of users and of items, whose numbers are written; and whether the source has those of items as numbers."""
    fields = {"user": source.user, "item": source.item}
    optional = {"rating": source.rating, "timestamp": source.timestamp, "order": source.order}
    fields |= {name: field for name, field in optional.items() if field is not None}
    clock = None if source.own else Clock("milliseconds" if source.milliseconds else "seconds")
    schema = pl.DataFrame(schema=INTERACTIONS).to_arrow().schema
    ids = {name: pl.Categories.random() for name in ("user", "item")}
    held = [pl.Series(dtype=pl.Categorical(own)) for own in ids.values()]  # else polars forgets between two blocks
    counts = dict.fromkeys(ids, 0)
    numbers, file, told, commas = True, "", False, Counter[str]()
    writer = pq.ParquetWriter(target, schema, compression="lz4", use_dictionary=False, write_statistics=False)
    with writer, ThreadPoolExecutor(1) as behind:
        written: Future[None] | None = None
        for block in source.blocks:
            if block.file != file:
                file, told = block.file, False
            table = block.table.select(pl.col(field).alias(name) for name, field in fields.items())
            if missing:
                table = table.with_columns(pl.when(~pl.all().is_in(list(missing))).then(pl.all()))
            if source.own and "timestamp" in fields and table["timestamp"].str.contains(",", literal=True).any():
                commas["times"] += int(table["timestamp"].str.contains(COMMA).sum())
                table = table.with_columns(pl.col("timestamp").str.replace(COMMA, "$1.$2"))
            if source.own and not told and "timestamp" in fields and table["timestamp"].count():
                clock, told = _clock_of(block.file, table["timestamp"], clock), True
            typed, reasons = _check(table, source, clock or Clock())
            rejects.of(block, reasons)
            if source.own and "rating" in fields:
                commas["ratings"] += int(table["rating"].str.contains(COMMA).sum())
            typed = typed.filter(reasons.is_null()) if reasons.count() else typed
            typed = typed.with_columns(pl.col(name).cast(pl.Categorical(ids[name])).to_physical() for name in ids)
            if len(typed):
                counts = {name: max(count, 1 + int(typed[name].to_numpy().max())) for name, count in counts.items()}
            if written:
                written.result()
            written = behind.submit(writer.write_table, typed.to_arrow())
            numbers = numbers and block.is_number(source.item, missing)
        if written:
            written.result()
    say(*(f"{count} {what} hold a comma, which is read as a decimal one" for what, count in commas.items() if count))
    users, items = (same_ids(_names(own, counts[name]).rename(name)) for name, own in ids.items())
    del held
    return users, items, numbers


def _names(categories: pl.Categories, count: int) -> pl.Series:
    """The first `count` of them; `Categories.to_series` goes one by one."""
    return pl.arange(count, dtype=pl.UInt32, eager=True).cat.to(pl.Categorical(categories)).cast(pl.String)


def _clock_of(file: str, times: pl.Series, former: Clock | None) -> Clock:
    """Of a part. 0 is no time where it was none in the part before."""
    found = find_clock(times)
    if former is not None:
        found = replace(found, zero=found.zero and former.zero)
    if former is None or found.unit != former.unit:
        say(f"{file}: {found.what}")
    return found


def _check(frame: pl.DataFrame, source: Interactions, clock: Clock) -> tuple[pl.DataFrame, pl.Series]:
    """INTERACTIONS out of text, and the first reason (if any) why a row cannot be used."""
    faults = [(pl.col(name).is_null(), f"missing {name} id") for name in ("user", "item")]

    def read(name: str, what: str, possible: pl.Expr) -> None:
        faults.append((pl.col(name).is_null(), f"missing {what}"))
        faults.append((~possible.fill_null(False), f"impossible {what}"))

    rating, timestamp, order = pl.lit(None, pl.Float64), pl.lit(None, pl.Int64), pl.lit(0, pl.Int64)
    if source.rating is not None:
        rating = _rating(frame["rating"], source.own)
        read("rating", "rating", rating.is_finite() & rating.is_between(*source.ratings))
    if source.timestamp is not None:
        timestamp, order, possible = clock.expressions(frame["timestamp"])
        faults.append((clock.none("timestamp"), "no time (0)"))
        read("timestamp", clock.what, possible)
    if source.order is not None:
        given = pl.col("order").str.replace(COMMA, "$1.$2") if source.own else pl.col("order")
        number = given.cast(pl.Float64, strict=False)
        whole = given.cast(pl.Int64, strict=False)
        order = pl.coalesce(whole, number.cast(pl.Int64, strict=False))
        read("order", "order", number.is_finite() & order.is_not_null())
        faults.append((number != number.floor(), "order that is no whole number"))
    typed = frame.select("user", "item", rating.alias("rating"), timestamp.alias("timestamp"), order.alias("order"))
    if not frame.select(pl.any_horizontal(fault for fault, _ in faults).any()).item():
        return typed, pl.repeat(None, len(frame), dtype=pl.String, eager=True)
    said = [pl.when(fault).then(pl.lit(reason)) for fault, reason in faults]
    return typed, frame.select(pl.coalesce(said)).to_series()


def _rating(texts: pl.Series, own: bool) -> pl.Expr:
    number = texts.cast(pl.Float64, strict=False)
    if not own or number.null_count() == texts.null_count():
        return pl.lit(number)
    comma = pl.col("rating").str.replace(COMMA, "$1.$2").cast(pl.Float64, strict=False)
    truth = pl.col("rating").str.to_lowercase().replace_strict({"true": 1.0, "false": 0.0}, default=None)
    return pl.coalesce(number, comma, truth.cast(pl.Float64))


def _read_items(
    source: Items, missing: Collection[str], rejects: _Rejects, fields: Sequence[str]
) -> tuple[pl.DataFrame, int, bool]:
    """One row an item: the first that has a title; how many items have several rows; whether all ids are numbers."""
    numbers = True
    found: dict[str, tuple[Any, ...]] = {}
    described: dict[str, Any] = {}
    repeated: set[str] = set()
    for block in source.blocks(fields):
        rejects.count(block)
        numbers = numbers and block.is_number(source.item, missing)
        for place, raw in enumerate(block.records()):
            record = _without(raw, missing) if missing else raw
            item = text(record.get(source.item))
            if item is None:
                rejects.add(block, place, "missing item id")
                continue
            item = same_id(item)
            described = source.describe(record)
            used = (record[source.item], *(described.get(name) for name in ("title", "categories", *fields)))
            if bytes in map(type, used):
                rejects.add(block, place, "wrong encoding")
                continue
            if item in found:
                repeated.add(item)
            if item not in found or (found[item][1] is None and clean(described["title"])):
                extra = (clean(described.get(name)) for name in fields)
                found[item] = (item, clean(described["title"]), categories(described["categories"]), *extra)
    schema = {"item": pl.String, "title": pl.String, "categories": pl.List(pl.String)} | dict.fromkeys(
        fields, pl.String
    )
    table = pl.DataFrame(list(found.values()), schema=schema, orient="row")
    bare = table["categories"].list.len().sum() == 0
    if bare or table.select(pl.all().is_null().all()).select(pl.any_horizontal("title", *fields)).item():
        _check_names(source, fields, described)
    return table, len(repeated), numbers


def _check_names(source: Items, fields: Sequence[str], described: Mapping[str, Any]) -> None:
    """Raises UserError where no item has one of `fields`, or one of the columns of params. `described`: any item."""
    available: dict[str, Any] = {}  # by name, in order
    for row in source.rows() if source.rows else ():
        if row.reason is None:
            available.update(source.describe(row.record))
    available = available or dict(described)
    if unknown := [name for name in fields if name not in available]:
        raise UserError(
            f"item_text names {', '.join(f'{{{name}}}' for name in unknown)}, which no item in {source.path} has; "
            f"it may name {', '.join(f'{{{name}}}' for name in available)}"
        )


def _without(record: Mapping[str, Any], missing: Collection[str]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, str) and value.strip() in missing else value for name, value in record.items()
    }
