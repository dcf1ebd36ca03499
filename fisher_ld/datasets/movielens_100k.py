"""MovieLens 100K (Harper and Konstan 2015), as RecBole's tab-separated atomic files inside its wheel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fisher_ld.config.params import DataSource
from fisher_ld.datasets.blocks import delimited_blocks
from fisher_ld.datasets.kind import Interactions, Items, Part, Record
from fisher_ld.datasets.rows import find
from fisher_ld.datasets.titles import movie

SHA256 = "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407"


def parts(source: DataSource) -> list[Part]:
    names = {f"recbole/dataset_example/ml-100k/ml-100k.{x}": f"ml-100k.{x}" for x in ("inter", "item", "user")}
    return [Part("package:recbole==1.2.1", names, SHA256, 2130151)]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    user, item = "user_id:token", "item_id:token"
    path, items = find(raw, "ml-100k.inter"), find(raw, "ml-100k.item")
    names = (user, item, "rating:float", "timestamp:float")
    item_names = (item, "movie_title:token_seq", "release_year:token", "class:token_seq")
    return (
        Interactions(path, delimited_blocks(path, names, "\t"), *names),
        Items(items, lambda fields: delimited_blocks(items, item_names, "\t"), item, _describe),
    )


def _describe(record: Record) -> dict[str, Any]:
    title = record["movie_title:token_seq"]
    title = "" if title in ("unknown", "unkonwn") else title  # as the file spells it
    return movie(title, (record["class:token_seq"] or "").split(" "), record["release_year:token"])
