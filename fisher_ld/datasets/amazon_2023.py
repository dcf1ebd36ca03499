"""Amazon reviews of 2023 (Hou et al. 2024): all of a category, or the ratings of its 5-core; and its metadata."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fisher_ld.config.params import DataSource
from fisher_ld.datasets.blocks import delimited_blocks, json_blocks
from fisher_ld.datasets.kind import Interactions, Items, Part, Record, category
from fisher_ld.datasets.rows import find
from fisher_ld.datasets.titles import item

ADDRESS = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023"
NAMES = ("user_id", "parent_asin", "rating", "timestamp")


def parts(source: DataSource) -> list[Part]:
    return [Part(f"{ADDRESS}/raw/review_categories/{category(source)}.jsonl.gz", "reviews.jsonl.gz"), _meta(source)]


def parts_5core(source: DataSource) -> list[Part]:
    name = category(source)
    return [Part(f"{ADDRESS}/benchmark/5core/rating_only/{name}.csv.gz", "reviews.csv.gz"), _meta(source)]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    path = find(raw, "reviews.jsonl.gz")
    return Interactions(path, json_blocks(path, NAMES), *NAMES, milliseconds=True), _items(raw)


def read_5core(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    path = find(raw, "reviews.csv.gz")
    return Interactions(path, delimited_blocks(path, NAMES, quoted=True), *NAMES, milliseconds=True), _items(raw)


def _meta(source: DataSource) -> Part:
    return Part(f"{ADDRESS}/raw/meta_categories/meta_{category(source)}.jsonl.gz", "meta.jsonl.gz")


def _items(raw: Path) -> Items:
    path = find(raw, "meta.jsonl.gz")
    names = ("parent_asin", "title", "categories", "main_category", "store")
    return Items(path, lambda fields: json_blocks(path, names, nested=True), "parent_asin", _describe)


def _describe(record: Record) -> dict[str, Any]:
    main = record.get("main_category")
    named = record.get("categories") or [main or ""]
    return item(record.get("title"), named, store=record.get("store"), main_category=main)
