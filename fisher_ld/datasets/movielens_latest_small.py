"""MovieLens latest-small of GroupLens, which replaces the file now and then: it has no published sum."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.config.params import DataSource
from fisher_ld.datasets.blocks import delimited_blocks
from fisher_ld.datasets.kind import Interactions, Items, Part
from fisher_ld.datasets.rows import find
from fisher_ld.datasets.titles import movie

ADDRESS = "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip"


def parts(source: DataSource) -> list[Part]:
    return [Part(ADDRESS, {f"ml-latest-small/{x}.csv": f"{x}.csv" for x in ("ratings", "movies")})]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    path, items = find(raw, "ratings.csv"), find(raw, "movies.csv")
    names = ("userId", "movieId", "rating", "timestamp")
    item_names = ("movieId", "title", "genres")
    return (
        Interactions(path, delimited_blocks(path, names), *names, ratings=(0.5, 5)),
        Items(
            items,
            lambda fields: delimited_blocks(items, item_names, quoted=True),
            "movieId",
            lambda record: movie(record["title"], record["genres"]),
        ),
    )
