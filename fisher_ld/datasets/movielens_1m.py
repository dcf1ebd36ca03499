"""MovieLens 1M of GroupLens (Harper and Konstan 2015)."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.config.params import DataSource
from fisher_ld.datasets.blocks import delimited_blocks
from fisher_ld.datasets.kind import Interactions, Items, Part
from fisher_ld.datasets.rows import find
from fisher_ld.datasets.titles import movie

ADDRESS = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
SHA256 = "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20"


def parts(source: DataSource) -> list[Part]:
    return [Part(ADDRESS, {f"ml-1m/{x}.dat": f"{x}.dat" for x in ("ratings", "movies", "users")}, SHA256, 5917549)]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    path, items = find(raw, "ratings.dat"), find(raw, "movies.dat")
    names = ("user", "item", "rating", "timestamp")
    item_names = ("item", "title", "genres")
    return (
        Interactions(path, delimited_blocks(path, names, "::", header=names, encoding="latin-1"), *names),
        Items(
            items,
            lambda fields: delimited_blocks(items, item_names, "::", header=item_names, encoding="latin-1"),
            "item",
            lambda record: movie(record["title"], record["genres"]),
        ),
    )
