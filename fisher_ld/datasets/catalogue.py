"""Kinds of sources of data, by the name that `source.kind` of a data set has. One more is a file and a row."""

from __future__ import annotations

from collections.abc import Mapping

from fisher_ld.datasets import (
    amazon_2014,
    amazon_2018,
    amazon_2023,
    beauty_2014,
    movielens_1m,
    movielens_100k,
    movielens_latest_small,
    table,
)
from fisher_ld.datasets.kind import Kind

SOURCES: Mapping[str, Kind] = {
    "movielens-100k": Kind(movielens_100k.parts, movielens_100k.read),
    "movielens-1m": Kind(movielens_1m.parts, movielens_1m.read),
    "movielens-latest-small": Kind(movielens_latest_small.parts, movielens_latest_small.read),
    "amazon-2014": Kind(amazon_2014.parts, amazon_2014.read),
    "amazon-2018": Kind(amazon_2018.parts, amazon_2018.read),
    "amazon-2023": Kind(amazon_2023.parts, amazon_2023.read),
    "amazon-2023-5core": Kind(amazon_2023.parts_5core, amazon_2023.read_5core),
    "beauty-2014": Kind(beauty_2014.parts, beauty_2014.read),
    "table": Kind(table.parts, table.read),
}
