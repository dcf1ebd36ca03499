"""Amazon reviews of 2018 (Ni et al. 2019): the 5-core of a category, and the metadata of the whole category."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.config.params import DataSource
from fisher_ld.datasets.amazon_2014 import read_5core
from fisher_ld.datasets.kind import Interactions, Items, Part, category

ADDRESS = "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2"


def parts(source: DataSource) -> list[Part]:
    name = category(source)
    return [
        Part(f"{ADDRESS}/categoryFilesSmall/{name}_5.json.gz", "reviews.jsonl.gz"),
        Part(f"{ADDRESS}/metaFiles2/meta_{name}.json.gz", "meta.jsonl.gz"),
    ]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    return read_5core(raw, "category", literals=False)
