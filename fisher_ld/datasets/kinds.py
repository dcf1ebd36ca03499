"""What each kind of source consists of in data/raw, and which of its fields holds what."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.datasets.rows import Row, delimited, find, json_lines, parquet
from fisher_ld.datasets.titles import article_first, clean, split_year

Record = Mapping[str, Any]
TABLE_SUFFIXES = (".csv", ".jsonl", ".parquet", ".csv.gz", ".jsonl.gz")


@dataclass(frozen=True)
class Interactions:
    """Where the rows of interactions come from, and which of their fields holds what (None: the source lacks it)."""

    path: Path
    rows: Iterable[Row]
    user: str
    item: str
    rating: str | None
    timestamp: str | None
    order: str | None = None
    ratings: tuple[float, float] = (1, 5)
    milliseconds: bool = False


@dataclass(frozen=True)
class Items:
    """Where the rows of items come from, the field that holds the id, and how the rest is read."""

    path: Path
    rows: Iterable[Row]
    item: str
    describe: Callable[[Record], dict[str, Any]]  # -> title, categories and whatever else item_text may name


def open_source(raw_dir: Path, source: DataSource) -> tuple[Interactions, Items]:
    """The files of `source.kind` in `raw_dir`, opened for reading. Raises UserError for a missing or empty file."""
    return _table(raw_dir, source.columns) if source.kind == "table" else _KINDS[source.kind](raw_dir)


def _movie(title: Any, genres: Any, year: Any = None) -> dict[str, Any]:
    title, year_in_title = split_year(clean(title) or "")
    year = year if str(year).isdigit() else year_in_title
    short_year = f"'{year[-2:]}" if year else None
    return {"title": article_first(title), "categories": genres, "year": year, "short_year": short_year}


def _movielens_100k(raw: Path) -> tuple[Interactions, Items]:
    def describe(record: Record) -> dict[str, Any]:
        title = record["movie_title:token_seq"]
        title = "" if title in ("unknown", "unkonwn") else title  # as the file spells it
        return _movie(title, record["class:token_seq"].split(" "), record["release_year:token"])

    user, item = "user_id:token", "item_id:token"
    path, items = find(raw, "ml-100k.inter"), find(raw, "ml-100k.item")
    names = (user, item, "rating:float", "timestamp:float")
    item_names = (item, "movie_title:token_seq", "release_year:token", "class:token_seq")
    return (
        Interactions(path, delimited(path, "\t", required=names), *names),
        Items(items, delimited(items, "\t", required=item_names), item, describe),
    )


def _movielens_1m(raw: Path) -> tuple[Interactions, Items]:
    path, items = find(raw, "ratings.dat"), find(raw, "movies.dat")
    names = ("user", "item", "rating", "timestamp")
    item_names = ("item", "title", "genres")
    return (
        Interactions(path, delimited(path, "::", header=names, encoding="latin-1"), *names),
        Items(
            items,
            delimited(items, "::", header=item_names, encoding="latin-1"),
            "item",
            lambda record: _movie(record["title"], record["genres"]),
        ),
    )


def _movielens_latest(raw: Path) -> tuple[Interactions, Items]:
    path, items = find(raw, "ratings.csv"), find(raw, "movies.csv")
    names = ("userId", "movieId", "rating", "timestamp")
    item_names = ("movieId", "title", "genres")
    return (
        Interactions(path, delimited(path, required=names), *names, ratings=(0.5, 5)),
        Items(
            items,
            delimited(items, required=item_names, quoted=True),
            "movieId",
            lambda record: _movie(record["title"], record["genres"]),
        ),
    )


def _amazon_old(raw: Path, genres: str, literals: bool) -> tuple[Interactions, Items]:
    path, items = find(raw, "reviews.jsonl.gz"), find(raw, "meta.jsonl.gz")

    def describe(record: Record) -> dict[str, Any]:
        return {"title": record.get("title"), "categories": record.get(genres), "brand": record.get("brand")}

    return (
        Interactions(path, json_lines(path), "reviewerID", "asin", "overall", "unixReviewTime"),
        Items(items, json_lines(items, literals=literals), "asin", describe),
    )


def _amazon_2023_items(raw: Path) -> Items:
    path = find(raw, "meta.jsonl.gz")

    def describe(record: Record) -> dict[str, Any]:
        main = record.get("main_category")
        named = record.get("categories") or [main or ""]
        return {"title": record.get("title"), "categories": named, "store": record.get("store"), "main_category": main}

    return Items(path, json_lines(path), "parent_asin", describe)


def _amazon_2023(raw: Path) -> tuple[Interactions, Items]:
    path = find(raw, "reviews.jsonl.gz")
    names = ("user_id", "parent_asin", "rating", "timestamp")
    return Interactions(path, json_lines(path), *names, milliseconds=True), _amazon_2023_items(raw)


def _amazon_2023_5core(raw: Path) -> tuple[Interactions, Items]:
    path = find(raw, "reviews.csv.gz")
    names = ("user_id", "parent_asin", "rating", "timestamp")
    rows = delimited(path, required=names, quoted=True)
    return Interactions(path, rows, *names, milliseconds=True), _amazon_2023_items(raw)


def _table(raw: Path, columns: Columns) -> tuple[Interactions, Items]:
    path, items = find(raw, "interactions", TABLE_SUFFIXES), find(raw, "items", TABLE_SUFFIXES)
    names = [columns.user, columns.item, columns.rating, columns.timestamp, columns.order]
    used = [name for name in names if name is not None]
    item_names = [name for name in (columns.item, columns.title, columns.categories) if name is not None]
    interactions = Interactions(
        path,
        _table_rows(path, used, used),
        columns.user,
        columns.item,
        columns.rating,
        columns.timestamp,
        columns.order,
        ratings=(float("-inf"), float("inf")),  # the scale is not known
    )
    return interactions, Items(items, _table_rows(items, item_names, None), columns.item, _describe_table(columns))


def _table_rows(path: Path, required: Sequence[str], kept: Sequence[str] | None) -> Iterable[Row]:
    name = path.name.removesuffix(".gz")
    if name.endswith(".csv"):
        return delimited(path, required=required, quoted=True)
    return json_lines(path) if name.endswith(".jsonl") else parquet(path, kept, required)


def _describe_table(columns: Columns) -> Callable[[Record], dict[str, Any]]:
    named = {columns.item, columns.title, columns.categories}

    def describe(record: Record) -> dict[str, Any]:
        others = {name: value for name, value in record.items() if name not in named}
        genres = record.get(columns.categories) if columns.categories else None
        return others | {"title": record.get(columns.title), "categories": genres}

    return describe


_KINDS: Mapping[str, Callable[[Path], tuple[Interactions, Items]]] = {
    "movielens-100k": _movielens_100k,
    "movielens-1m": _movielens_1m,
    "movielens-latest-small": _movielens_latest,
    "amazon-2014": partial(_amazon_old, genres="categories", literals=True),
    "amazon-2018": partial(_amazon_old, genres="category", literals=False),
    "amazon-2023": _amazon_2023,
    "amazon-2023-5core": _amazon_2023_5core,
}
