"""Amazon Beauty of 2014 (He and McAuley 2016), its 5-core: from the folder that FISHER_LD_DATA names, else as
`amazon-2014` has it. The folder has neither ratings nor times, so of the public files neither is taken."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.core.errors import Unavailable
from fisher_ld.core.locks import work_root
from fisher_ld.datasets import amazon_2014, table
from fisher_ld.datasets.kind import Interactions, Items, Part, Record

VARIABLE, FOLDER, FILES = "FISHER_LD_DATA", "amazon-beauty-2014", ("interactions.csv", "items.jsonl")
PUBLIC = DataSource(kind="amazon-2014", category="Beauty")
LOCAL = DataSource(
    kind="table",
    interactions=FILES[0],
    items=FILES[1],
    columns=Columns(user="user_id", item="item_id", title="title", order="pos", categories="category"),
)


def parts(source: DataSource) -> list[Part]:
    """Raises Unavailable where the variable is set and its folder lacks the files: the address is then not asked. A
    path that is not absolute begins at the repository."""
    wanted = f"a folder that holds {FOLDER}/ with {' and '.join(FILES)}"
    named = os.environ.get(VARIABLE)
    if not named:
        instead = f"Or set {VARIABLE} to {wanted}."
        return [replace(part, instead=instead) for part in amazon_2014.parts(PUBLIC)]
    folder = work_root() / Path(named).expanduser() / FOLDER
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise Unavailable(
            f"{VARIABLE}={named}: expected {wanted}, got no {' and no '.join(missing)} in {folder}. Set it to such a "
            "folder, or unset it to download the public files."
        )
    return [Part(str(folder / name), name) for name in FILES]


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    if not (raw / "meta.jsonl.gz").is_file():
        return table.read(raw, LOCAL)
    interactions, items = amazon_2014.read(raw, PUBLIC)

    def first_path(record: Record) -> Record:
        """The folder has one path of categories an item."""
        return {**record, "categories": (record.get("categories") or [])[:1]}

    return (
        replace(interactions, rating=None, timestamp=None, order=interactions.timestamp),
        replace(items, describe=lambda record: items.describe(first_path(record))),
    )
