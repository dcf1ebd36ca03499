"""The user's tables: interactions and items, each delimited text, JSON lines or Parquet, in one file or a folder of
parts; `source.columns` says what holds what. What is guessed of a file is printed."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.core.locks import work_root
from fisher_ld.core.progress import say
from fisher_ld.datasets.blocks import Block, delimited_blocks, json_blocks, parquet_blocks, row_blocks
from fisher_ld.datasets.kind import Interactions, Items, Part, Record
from fisher_ld.datasets.rows import Row, delimited, find, json_lines, parquet
from fisher_ld.datasets.streams import PACKED, find_encoding, is_empty, utf8
from fisher_ld.datasets.titles import find_separator, item, listed

TEXT, JSON, PARQUET = (".csv", ".tsv", ".txt"), (".json", ".jsonl"), ".parquet"
SUFFIXES = tuple(suffix + packed for packed in ("", *PACKED) for suffix in (*TEXT, *JSON, PARQUET))
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
SAMPLE = 1 << 18  # bytes
SAMPLED_ITEMS = 10_000
NAMED = 5  # files in a message
DOCUMENT = re.compile(r"(readme|licen[cs]e|copying|notice|changelog|citation)\b", re.IGNORECASE)


def parts(source: DataSource) -> list[Part]:
    """Each table under its name here, with its suffix there; of a local folder every table in it, one by one. Raises
    UserError for another suffix, also of a file in the folder, which would else be lost."""
    tables = {"interactions": source.interactions or "", "items": source.items or ""}
    found = []
    for name, address in tables.items():
        local = unquote(address.removeprefix("file://")) if address.startswith("file://") else address
        folder = work_root() / Path(local).expanduser()
        if "://" not in local and folder.is_dir():
            files = _tables(folder)
            found += [Part(str(file), f"{name}-{i:05d}{_suffix(file.name)}") for i, file in enumerate(files)]
        else:
            found.append(Part(address, f"{name}{_suffix(address)}"))
    return found


def read(raw: Path, source: DataSource) -> tuple[Interactions, Items]:
    files, items, columns = _find(raw, "interactions"), _find(raw, "items"), source.columns
    assert columns is not None
    names = (columns.user, columns.item, columns.rating, columns.timestamp, columns.order)
    used = [name for name in names if name is not None]
    item_names = [name for name in (columns.item, columns.title, columns.categories) if name is not None]
    forms = {path: _form(path, used, source) for path in files}
    forms |= {path: _form(path, item_names, source) for path in items}
    genres, mark = columns.categories, None
    if genres:
        sample = islice(_rows(items, forms, item_names), SAMPLED_ITEMS)
        mark = find_separator(row.record.get(genres) for row in sample)
        if mark:
            say(f"{items[0].name}: a {DELIMITERS[mark]} stands between the categories")

    def describe(record: Record) -> dict[str, Any]:
        others = {name: value for name, value in record.items() if name not in item_names}
        named = listed(record.get(genres)) if genres else None
        return item(
            record.get(columns.title), named.split(mark) if mark and isinstance(named, str) else named, **others
        )

    unknown = (float("-inf"), float("inf"))  # the scale of the ratings
    return (
        Interactions(files[0], _blocks(files, forms, used), *names, ratings=unknown, own=True),
        Items(
            items[0],
            partial(_item_blocks, items, forms, item_names),
            columns.item,
            describe,
            partial(_rows, items, forms, item_names),
        ),
    )


@dataclass(frozen=True)
class _Form:
    """How a text file is written."""

    encoding: str = "utf-8"
    delimiter: str = ","
    escape: str | None = None


def _tables(folder: Path) -> list[Path]:
    """All in it but what is hidden, by other programs too (_SUCCESS), and documents."""
    shown = [path for path in sorted(folder.iterdir(), key=_counted) if not path.name.startswith((".", "_"))]
    documents = [path for path in shown if DOCUMENT.match(path.name) and path.is_file()]
    files = [path for path in shown if path not in documents]
    others = [path for path in files if path.is_dir() or not path.name.lower().endswith(SUFFIXES)]
    if others or not files:
        named = ", ".join(path.name + "/" * path.is_dir() for path in others[:NAMED]) + ", .." * (len(others) > NAMED)
        raise UserError(
            f"{folder}: expected a folder with files ending in {', '.join(SUFFIXES)}, got {named or 'none'}"
            + ("; convert what holds rows, and move all else to another folder" if others else "")
        )
    if documents:
        say(f"{folder}: left out {', '.join(path.name for path in documents)}")
    return files


def _counted(path: Path) -> list[str | int]:
    """Sorts part-2 before part-10."""
    return [int(piece) if piece.isdigit() else piece for piece in re.split(r"([0-9]+)", path.name)]


def _find(raw: Path, name: str) -> list[Path]:
    files = sorted(path for path in raw.glob(f"{name}-*") if path.name.endswith(SUFFIXES))
    if not files:
        return [find(raw, name, SUFFIXES)]
    empty = [path for path in files if _kind(path) != PARQUET and is_empty(path)]
    if len(empty) < len(files):
        for path in empty:
            say(f"{path.name}: empty, left out")
        files = [path for path in files if path not in empty]
    return files


def _kind(path: Path) -> str:
    return Path(path.stem).suffix if path.suffix in PACKED else path.suffix


def _form(path: Path, names: Sequence[str], source: DataSource) -> _Form:
    if _kind(path) == PARQUET:
        return _Form()
    encoding = source.encoding or find_encoding(path)
    if _kind(path) in JSON:
        if encoding != "utf-8":
            say(f"{path.name}: read as {encoding}; source.encoding sets another")
        return _Form(encoding)
    with utf8(path, encoding) as file:
        sample = file.read(SAMPLE).decode("utf-8", "replace")
    delimiter = source.delimiter or _delimiter(sample, names)
    escape = "\\" if re.search(r'\\"\w', sample) and not re.search(r'\w""|""\w', sample) else None
    also = ", quotes after a backslash" if escape else ""
    named = DELIMITERS.get(delimiter, repr(delimiter))
    say(f"{path.name}: read as {encoding}, {named}-separated{also}; source.encoding and source.delimiter set others")
    return _Form(encoding, delimiter, escape)


def _delimiter(sample: str, names: Sequence[str]) -> str:
    """That by which most of the columns `names` are in the header; of equals that of most columns."""

    def fit(delimiter: str) -> tuple[int, int]:
        try:
            header = [name.strip() for name in next(csv.reader(sample.splitlines(), delimiter=delimiter), [])]
        except csv.Error:
            return 0, 0
        return len({*names} & {*header}), len(header)

    return max(DELIMITERS, key=fit)


def _blocks(paths: Sequence[Path], forms: dict[Path, _Form], names: Sequence[str]) -> Iterator[Block]:
    for path in paths:
        form = forms[path]
        if _kind(path) in TEXT:
            yield from delimited_blocks(
                path, names, form.delimiter, quoted=True, encoding=form.encoding, escape=form.escape
            )
        elif _kind(path) in JSON:
            yield from json_blocks(path, names, form.encoding)
        else:
            yield from parquet_blocks(path, names)


def _item_blocks(
    paths: Sequence[Path], forms: dict[Path, _Form], names: Sequence[str], fields: Sequence[str]
) -> Iterator[Block]:
    """With `fields` too, where there are such; values may be lists and objects."""
    every = list(dict.fromkeys([*names, *fields]))
    for path in paths:
        form = forms[path]
        if _kind(path) in TEXT:
            yield from delimited_blocks(
                path, names, form.delimiter, quoted=True, encoding=form.encoding, escape=form.escape, optional=every
            )
        elif _kind(path) in JSON:
            yield from json_blocks(path, every, form.encoding, nested=True)
        else:
            yield from row_blocks(path, parquet(path, every, names), every)


def _rows(paths: Sequence[Path], forms: dict[Path, _Form], required: Sequence[str]) -> Iterator[Row]:
    for path in paths:
        form = forms[path]
        rows: Iterable[Row]
        if _kind(path) in TEXT:
            rows = delimited(
                path, form.delimiter, required=required, quoted=True, encoding=form.encoding, escape=form.escape
            )
        elif _kind(path) in JSON:
            rows = json_lines(path, encoding=form.encoding, required=required)
        else:
            rows = parquet(path, None, required)
        yield from rows if len(paths) == 1 else (row._replace(file=path.name) for row in rows)


def _suffix(address: str) -> str:
    name = PurePosixPath(unquote(urlsplit(address).path) if "://" in address else address).name.lower()
    for suffix in SUFFIXES:
        if name.endswith(suffix):
            return suffix
    raise UserError(f"{address}: expected a table ending in {', '.join(SUFFIXES)}, got {name or 'no file'}.")
