"""What a kind of source is: the files it consists of, and what their fields hold."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.datasets.blocks import Block
from fisher_ld.datasets.rows import Row

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """An address as fetch/source.py takes it, what is published about the file, and what of it goes to raw/: the file
    itself under a name, or members of the archive, name there -> name here. `instead`: a sentence on what else a user
    can do where the address gives nothing."""

    address: str
    target: str | Mapping[str, str]
    sha256: str | None = None
    size: int | None = None  # bytes
    instead: str = ""


@dataclass(frozen=True)
class Interactions:
    """Where the rows of interactions come from, and which of their fields holds what (None: the source lacks it).
    `own`: a user's table, whose times may be in any unit or as text, and ratings true, false or with a comma."""

    path: Path
    blocks: Iterable[Block]
    user: str
    item: str
    rating: str | None
    timestamp: str | None
    order: str | None = None
    ratings: tuple[float, float] = (1, 5)
    milliseconds: bool = False
    own: bool = False


@dataclass(frozen=True)
class Items:
    """Where the rows of items come from, by the names that item_text has, the field that holds the id, and how the
    rest is read. `rows`: those of a user's table with all its fields, for a message."""

    path: Path
    blocks: Callable[[Sequence[str]], Iterable[Block]]
    item: str
    describe: Callable[[Record], dict[str, Any]]  # -> title, categories and whatever else item_text may name
    rows: Callable[[], Iterable[Row]] | None = None


@dataclass(frozen=True)
class Kind:
    """A row of the catalogue. `read` opens the files of the folder raw/; it raises UserError for one that is missing or
    empty."""

    parts: Callable[[DataSource], Sequence[Part]]
    read: Callable[[Path, DataSource], tuple[Interactions, Items]]


def category(source: DataSource) -> str:
    """The category as addresses hold it, such as All_Beauty. Raises UserError for one that would change the path."""
    name = source.category or ""
    if not re.fullmatch(r"[A-Za-z0-9_&-]+", name):
        raise UserError(f"source.category: expected a name such as All_Beauty, got {name!r}.")
    return name
