"""Amazon reviews of 2014 (McAuley lab): the 5-core of a category, and the metadata of the whole category.

`category` is spelled as in the address. Despite their name, lines of the metadata are Python literals, not JSON.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fisher_ld.config.params import DataSource
from fisher_ld.datasets.blocks import json_blocks
from fisher_ld.datasets.kind import Interactions, Items, Part, Record, category
from fisher_ld.datasets.rows import find
from fisher_ld.datasets.titles import item

ADDRESS = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon/categoryFiles"
NAMES = ("reviewerID", "asin", "overall", "unixReviewTime")


def parts(source: DataSource) -> list[Part]:
    name = category(source)
    return [
        Part(f"{ADDRESS}/reviews_{name}_5.json.gz", "reviews.jsonl.gz"),
        Part(f"{ADDRESS}/meta_{name}.json.gz", "meta.jsonl.gz"),
    ]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    return read_5core(raw, "categories", literals=True)


def read_5core(raw: Path, genres: str, literals: bool) -> tuple[Interactions, Items]:
    """`genres`: the field of the metadata with the categories, which the years name differently."""
    path, items = find(raw, "reviews.jsonl.gz"), find(raw, "meta.jsonl.gz")

    names = ("asin", "title", genres, "brand")

    def describe(record: Record) -> dict[str, Any]:
        return item(record.get("title"), record.get(genres), brand=record.get("brand"))

    return (
        Interactions(path, json_blocks(path, NAMES), *NAMES),
        Items(items, lambda fields: json_blocks(items, names, nested=True, literals=literals), "asin", describe),
    )
