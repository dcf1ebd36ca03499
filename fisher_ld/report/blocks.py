"""A document is a list of a few kinds of blocks, which know no format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from fisher_ld.core.files import atomic_path

Cell = str | tuple[str, ...]  # a value, and the lines that stand small below it


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    text: str
    lead: bool = False  # larger: the summary


@dataclass(frozen=True)
class Table:
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: Sequence[int] = field(default=(0,))  # columns of words, set left; the others are numbers
    best: Sequence[tuple[int, int]] = field(default=())  # row and column of cells in bold


@dataclass(frozen=True)
class Picture:
    alt: str
    svg: str
    caption: str


Block = Heading | Text | Table | Picture


def lines(cell: Cell) -> list[str]:
    """The value, and what is to stand below it."""
    return [cell] if isinstance(cell, str) else [cell[0], *filter(None, cell[1:])]


def write_page(path: Path, text: str) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
