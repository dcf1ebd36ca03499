"""The user's tables: interactions and items, each CSV, JSON lines or Parquet; `source.columns` says what holds what."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.datasets.kind import Interactions, Items, Part, Record
from fisher_ld.datasets.rows import Row, delimited, find, json_lines, parquet
from fisher_ld.datasets.titles import item

SUFFIXES = (".csv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz")


def parts(source: DataSource) -> list[Part]:
    """Each table under its name here, with its suffix there. Raises UserError for another suffix."""
    tables = {"interactions": source.interactions or "", "items": source.items or ""}
    return [Part(address, f"{name}{_suffix(address)}") for name, address in tables.items()]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    path, items, columns = find(raw, "interactions", SUFFIXES), find(raw, "items", SUFFIXES), source.columns
    assert columns is not None
    names = (columns.user, columns.item, columns.rating, columns.timestamp, columns.order)
    used = [name for name in names if name is not None]
    item_names = [name for name in (columns.item, columns.title, columns.categories) if name is not None]

    def describe(record: Record) -> dict[str, Any]:
        others = {name: value for name, value in record.items() if name not in item_names}
        genres = record.get(columns.categories) if columns.categories else None
        return item(record.get(columns.title), genres, **others)

    unknown = (float("-inf"), float("inf"))  # the scale of the ratings
    return (
        Interactions(path, _rows(path, used, used), *names, ratings=unknown),
        Items(items, _rows(items, item_names, None), columns.item, describe),
    )


def _rows(path: Path, required: Sequence[str], kept: Sequence[str] | None) -> Iterable[Row]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return delimited(path, required=required, quoted=True)
    return json_lines(path) if name.endswith(".jsonl") else parquet(path, kept, required)


def _suffix(address: str) -> str:
    name = PurePosixPath(unquote(urlsplit(address).path)).name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise UserError(f"{address}: expected a table ending in {', '.join(SUFFIXES)}, got {name or 'no file'}.")
