"""Tables in columns: a block of a file at a time, row by row only where something in it is odd."""

from __future__ import annotations

import io
import json
import re
from codecs import BOM_UTF8
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from decimal import Decimal
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import parquet_batches
from fisher_ld.core.progress import progress
from fisher_ld.datasets.rows import (
    Lines,
    Row,
    as_rows,
    broken_rows,
    count_lines,
    decoded,
    json_rows,
    open_parquet,
    read_header,
    refuse_array,
    split,
)
from fisher_ld.datasets.streams import utf8
from fisher_ld.datasets.titles import parse, text

SIZE = 1 << 23  # bytes of a block
AHEAD = 2  # blocks that are parsed at once
BATCH_ROWS = 50_000  # of Parquet
SEPARATOR = "\x1f"
# Python's blanks that a parser in columns does not know, and its own separator
ODD = (b"\x00", b"\x0b", b"\x0c", b"\x1c", b"\x1d", b"\x1e", SEPARATOR.encode())
NESTED = r"^[\[{]"  # as polars has lists and objects of JSON in a column of texts
BLANKS = (b" ", b"\t")  # of ASCII, that a line may hold within


@dataclass(frozen=True)
class Block:
    """Rows of a file. `table`: the columns asked for, as text; null: missing. `numbers`: of the rows in the file;
    `raw` gives the text of one by its place here. `bad`: rows that cannot be read. `are_numbers`: whether the file has
    the values of a column as numbers, but for those that stand for nothing. `nested`: texts that look like lists and
    objects of JSON are such. `careful`: the rows as read one by one."""

    file: str
    table: pl.DataFrame
    numbers: Sequence[int]
    raw: Callable[[int], str]
    bad: list[Row] = field(default_factory=list)
    are_numbers: Callable[[str, Collection[str]], bool] = lambda name, missing: False
    nested: bool = False
    careful: Sequence[Row] | None = None

    def is_number(self, name: str, missing: Collection[str]) -> bool:
        """Whether all values of a column are numbers, which have no leading zeros. `missing`: texts that stand for
        nothing, as an empty one does."""
        values = self.table[name].drop_nulls()
        return values.is_in(list(missing)).all() or self.are_numbers(name, missing)

    def records(self) -> Iterator[Mapping[str, Any]]:
        """Of each row of the table, with lists and objects."""
        if self.careful is not None:
            yield from (row.record for row in self.careful)
            return
        nested = [name for name in self.table.columns if self.nested and self.table[name].str.contains(NESTED).any()]
        for record in self.table.iter_rows(named=True):
            yield record | {name: _unfolded(record[name]) for name in nested} if nested else record


def delimited_blocks(
    path: Path,
    names: Sequence[str],
    delimiter: str = ",",
    *,
    header: Sequence[str] | None = None,
    quoted: bool = False,
    encoding: str = "utf-8",
    escape: str | None = None,
    optional: Sequence[str] = (),
) -> Iterator[Block]:
    """The columns `names` of a delimited file, and those of `optional` that it has; all else as `rows.delimited` has
    it, with the same reasons."""
    with utf8(path, encoding) as file:
        lines = Lines(file, path.name)
        if header is None:
            header = read_header(path, split(lines, delimiter, quoted, escape), names)
        names = [*names, *(name for name in optional if name in header)]

        def rows() -> Iterator[list[Row]]:
            return (as_rows(*one, header) for one in split(lines, delimiter, quoted, escape))

        parse = partial(_columns, header=header, names=names, delimiter=delimiter, quoted=quoted)
        yield from _in_columns(path, lines, names, (lambda data: None) if escape else parse, rows)


def json_blocks(
    path: Path, names: Sequence[str], encoding: str = "utf-8", *, nested: bool = False, literals: bool = False
) -> Iterator[Block]:
    """The fields `names` of a file with one JSON object a line, as `rows.json_lines` has it. `nested`: they may be
    lists and objects, which `records` gives."""
    with utf8(path, encoding) as file:
        refuse_array(path, file)
        lines, first = Lines(file, path.name), iter([True])  # who writes a field twice does so from the start
        found = _in_columns(
            path,
            lines,
            names,
            lambda data: _objects(data, names, careful=next(first, False), nested=nested),
            lambda: ([row] for row in json_rows(lines, literals)),
            _json_numbers,
        )
        yield from (replace(block, nested=nested) for block in found)


def parquet_blocks(path: Path, names: Sequence[str]) -> Iterator[Block]:
    """The columns `names` of a Parquet file; times as seconds since 1970."""
    number, file, distinct = 0, open_parquet(path, names), list(dict.fromkeys(names))
    with file, progress(file.metadata.num_rows, f"Reading {path.name}", "rows") as bar:
        for batch in parquet_batches(file, path, batch_size=BATCH_ROWS, columns=distinct):
            batch = pa.RecordBatch.from_arrays([decoded(batch[name]) for name in distinct], names=distinct)
            numbers: Sequence[int] = range(number + 1, number + 1 + batch.num_rows)
            number += batch.num_rows
            bad = [Row(numbers[i], {}, "wrong encoding", _json(batch, i)) for i in broken_rows(batch)]
            if bad:
                good = np.setdiff1d(numbers, [row.number for row in bad])
                kept, numbers = batch.take(pa.array(good - numbers[0])), good.tolist()
                batch = pa.RecordBatch.from_arrays([decoded(column) for column in kept.columns], names=distinct)
            table = pl.DataFrame([_as_text(name, batch[name]) for name in distinct])
            numeric = frozenset(field.name for field in batch.schema if _is_number(field.type))
            kinds = lambda name, missing, numeric=numeric: name in numeric  # noqa: E731
            yield Block(path.name, table, numbers, partial(_json, batch), bad, kinds)
            bar.advance(len(table) + len(bad))


def row_blocks(path: Path, rows: Iterator[Row], names: Sequence[str]) -> Iterator[Block]:
    """Of rows that are read one by one."""
    while some := list(islice(rows, BATCH_ROWS)):
        yield of_rows(path, some, names)


def _json(batch: pa.RecordBatch, row: int) -> str:
    return json.dumps(batch.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)


def of_rows(path: Path, rows: Iterable[Row], names: Sequence[str]) -> Block:
    rows = list(rows)
    good = [row for row in rows if row.reason is None]
    values = {name: [text(row.record.get(name)) for row in good] for name in names}
    table = pl.DataFrame(values, schema=dict.fromkeys(names, pl.String))
    bad = [row for row in rows if row.reason is not None]

    def are_numbers(name: str, missing: Collection[str]) -> bool:
        values = (row.record.get(name) for row in good)
        return all(isinstance(v, int | float | Decimal) for v in values if text(v) not in (None, *missing))

    return Block(path.name, table, [row.number for row in good], lambda i: good[i].raw, bad, are_numbers, careful=good)


def _in_columns(
    path: Path,
    lines: Lines,
    names: Sequence[str],
    parse: Callable[[bytes], pl.DataFrame | None],
    rows: Callable[[], Iterator[list[Row]]],
    are_numbers: Callable[[bytes, str, Collection[str]], bool] = lambda data, name, missing: False,
) -> Iterator[Block]:
    """Blocks of `lines` by `parse`, some at once; by `rows`, from `lines` on, where that gives None."""
    ahead = deque[tuple[bytes, Future[pl.DataFrame | None]]]()
    with ThreadPoolExecutor(AHEAD) as pool:
        while True:
            while len(ahead) < AHEAD and (data := lines.take(SIZE)):
                ahead.append((data, pool.submit(parse, data)))
            if not ahead:
                return
            data, parsed = ahead.popleft()
            if (table := parsed.result()) is not None:
                yield _block(path, table, data, lines, partial(are_numbers, data))
                continue
            lines.put(data, *(later for later, _ in ahead))
            found: list[Row] = []
            for some in rows():
                found += some
                if lines.left <= 0:
                    break
            if lines.left == 0:  # the rows ended where the block does: what is parsed ahead holds
                lines.put(b"")
            else:
                ahead.clear()
            yield of_rows(path, found, names)


def _block(
    path: Path,
    table: pl.DataFrame,
    data: bytes,
    lines: Lines,
    are_numbers: Callable[[str, Collection[str]], bool],
) -> Block:
    first = lines.number + 1
    lines.number += len(table)

    @cache
    def every() -> list[bytes]:
        return data.split(b"\n")

    numbers = range(first, first + len(table))
    return Block(path.name, table, numbers, lambda i: every()[i].decode().rstrip("\r"), are_numbers=are_numbers)


def _stripped(table: pl.DataFrame) -> pl.DataFrame:
    """Without blanks around texts; what is empty is missing."""
    return table.with_columns(pl.all().str.strip_chars()).with_columns(
        pl.when(pl.col(name) != "").then(pl.col(name)) for name in table.columns
    )


def _columns(
    data: bytes, header: Sequence[str], names: Sequence[str], delimiter: str, quoted: bool
) -> pl.DataFrame | None:
    """None where something in the block needs the careful reader."""
    if _is_odd(data) or len(header) < 2 or not delimiter.isascii():
        return None
    if quoted and b'"' in data and not _quotes(delimiter).fullmatch(data if data[-1:] == b"\n" else data + b"\n"):
        return None
    if len(delimiter) > 1:
        data, delimiter = data.replace(delimiter.encode(), SEPARATOR.encode()), SEPARATOR
    places = {name: str(i) for i, name in enumerate(header)}
    columns = [str(i) for i in range(len(header))]
    wanted = [places[name] for name in dict.fromkeys(names)]
    try:
        table = pa_csv.read_csv(
            pa.BufferReader(data),
            pa_csv.ReadOptions(column_names=columns, use_threads=False),
            pa_csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False, ignore_empty_lines=False),
            pa_csv.ConvertOptions(
                column_types=dict.fromkeys(columns, pa.string()),
                include_columns=wanted,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if table.num_rows != count_lines(data):
        return None
    table = pl.DataFrame(pl.from_arrow(table.rename_columns(list(dict.fromkeys(names)))))
    table = table if data.isascii() and not any(blank in data for blank in BLANKS) else _stripped(table)
    maybe_blank = pl.all_horizontal(pl.all().is_null()).any()  # a line of which the parser made a row
    return None if table.select(maybe_blank).item() else table


def _is_odd(data: bytes) -> bool:
    if (
        data.startswith(BOM_UTF8)
        or any(blank in data for blank in ODD)
        or (b"\r" in data and data.count(b"\r") != data.count(b"\r\n"))
    ):
        return True
    try:
        return not data.isascii() and not data.decode()
    except UnicodeDecodeError:
        return True


@cache
def _quotes(delimiter: str) -> re.Pattern[bytes]:
    """Lines whose quotes are right and hold no line break."""
    d = re.escape(delimiter.encode())
    one = rb'(?:"(?:[^"\r\n]|"")*+"|[^"\r\n' + d + rb"]*+)"
    return re.compile(rb"(?:" + one + rb"(?:" + d + one + rb")*+\r?\n)*+")


def _objects(data: bytes, names: Sequence[str], careful: bool, nested: bool) -> pl.DataFrame | None:
    """None where something in the block needs the careful reader, or with `careful` a field may stand twice. `nested`:
    lists and objects are taken, as JSON."""
    codes = np.frombuffer(data, np.uint8)
    controls = codes[codes < ord(" ")].tobytes()  # far faster than to count each in 8 MiB
    if controls.strip(b"\n\r\t"):
        return None
    try:
        if not data.isascii():
            data.decode()
        table = pl.read_ndjson(io.BytesIO(data), schema=dict.fromkeys(names, pl.String))
    except (pl.exceptions.PolarsError, UnicodeDecodeError, UserError):
        return None
    # polars makes a zero of half a surrogate pair, and of a truth value a text that is not Python's
    forms = r"^(?:true|false)$|\x00" if nested else r"^\s*[\[{]|\x00"
    odd = pl.any_horizontal(pl.all().str.contains(forms).any())
    lines = controls.count(b"\n") + (data[-1:] != b"\n")
    if len(table) != lines or table.select(odd).item() or (careful and _repeated(data, table)):
        return None
    if nested and any(_like_nested(data, table[name]) for name in table.columns):
        return None
    return _stripped(table)


def _like_nested(data: bytes, texts: pl.Series) -> bool:
    """Whether some of them may be a text that looks like a list or an object."""
    begun = int(texts.str.contains(r"^\s*[\[{]").sum())
    if not begun:
        return False
    blanks = rb"(?:\s|\\[nrt]|\\u[0-9a-fA-F]{4}|[\x80-\xff])*"  # and what may be one
    values = re.findall(re.escape(_key(texts.name)) + rb'\s*:\s*("' + blanks + rb")?[\[{]", data)
    if re.search(rb"\\u00[57][bB]", data):  # a [ or { by its number
        return True
    return any(values) or len(values) != begun


def _unfolded(value: str | None) -> Any:
    found = parse(value, literals=False) if value and re.match(NESTED, value) else None
    return value if found is None else found


def _key(name: str) -> bytes:
    """A field's name as an object has it."""
    return json.dumps(name, ensure_ascii=False).encode()


def _repeated(data: bytes, table: pl.DataFrame) -> bool:
    """Whether a field of the table may stand twice in an object, of which polars silently takes the first."""
    for name in table.columns:
        key = _key(name)
        beyond = data.count(key) - table[name].count()  # a field that says null has no value
        if beyond > 0 and beyond > len(re.findall(re.escape(key) + rb"\s*:\s*null", data)):
            return True
    return False


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)


def _json_numbers(data: bytes, name: str, missing: Collection[str]) -> bool:
    key = re.escape(_key(name)) + rb"\s*:\s*"
    if re.search(key + rb"-?\d", data) is None:
        return False
    nothing = {"", *missing}
    return all(value.decode().strip() in nothing for value in set(re.findall(key + rb'"([^"]*)', data)))


def _as_text(name: str, column: pa.Array) -> pl.Series:
    kind = column.type
    if pa.types.is_date(kind):
        column, kind = column.cast(pa.timestamp("s")), pa.timestamp("s")
    if pa.types.is_timestamp(kind):
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[kind.unit]
        series = pl.Series(name, pl.from_arrow(column.cast(pa.int64())))
        size, sign = series.abs(), (series < 0).replace_strict({True: "-", False: ""}, return_dtype=pl.String)
        rest = (size % 10**digits).cast(pl.String).str.zfill(digits)
        return sign + (size // 10**digits).cast(pl.String) + ("." + rest).str.replace(r"^\.0*$", "")
    if pa.types.is_dictionary(kind):
        column = pc.cast(column, kind.value_type)
    if pa.types.is_decimal256(column.type):
        column = column.cast(pa.string())  # polars has none
    series = pl.Series(name, pl.from_arrow(column))
    if series.dtype.is_nested():
        return pl.Series(name, [None] * len(series), dtype=pl.String)
    if series.dtype.is_float():
        series = series.fill_nan(None)
    series = series.cast(pl.String, strict=False).str.strip_chars()
    return series.set(series == "", None)
