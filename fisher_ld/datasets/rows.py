"""Raw files -> records, one at a time; what cannot be read comes with a reason instead of stopping the file."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import parquet_batches
from fisher_ld.core.progress import progress, say
from fisher_ld.datasets.streams import plain, utf8
from fisher_ld.datasets.titles import Repeated, parse

MOST_FIELDS = 1000  # of JSON objects that are searched for those that are required
TEXTS = (
    pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary, pa.types.is_large_binary,
    pa.types.is_binary_view, pa.types.is_fixed_size_binary,
)  # fmt: skip
Fields = tuple[int, list[str] | None, str]
csv.field_size_limit(1 << 26)


class Row(NamedTuple):
    number: int  # of its first line in the file, from 1; in Parquet of the row
    record: Mapping[str, Any]
    reason: str | None  # why it cannot be read; the record is then empty
    raw: str  # empty for Parquet, where the record is all there is
    file: str = ""  # of a folder of part files


def find(folder: Path, name: str, suffixes: Sequence[str] = ("",)) -> Path:
    """The one file `name` + suffix in `folder`. Raises UserError if it is missing, empty, or there are several."""
    found = [path for suffix in suffixes if (path := folder / f"{name}{suffix}").is_file()]
    expected = f"{name}{suffixes[0]}" if len(suffixes) == 1 else f"{name} with one of {', '.join(suffixes)}"
    if not found:
        there = ", ".join(sorted(p.name for p in folder.iterdir())) if folder.is_dir() else "no such folder"
        raise UserError(f"{folder}: expected {expected}, got {there or 'an empty folder'}; run dvc repro download")
    if len(found) > 1:
        raise UserError(f"{folder}: expected one file {expected}, got {', '.join(p.name for p in found)}; remove one")
    if found[0].stat().st_size == 0:
        raise UserError(f"{found[0]}: the file is empty (0 bytes); run dvc repro -f download")
    return found[0]


def delimited(
    path: Path,
    delimiter: str = ",",
    *,
    header: Sequence[str] | None = None,
    required: Sequence[str] = (),
    quoted: bool = False,
    encoding: str = "utf-8",
    escape: str | None = None,
) -> Iterator[Row]:
    """Records of a delimited file. `header` None: it is the first line; a `required` column it lacks raises UserError.
    A `quoted` field may hold delimiters, doubled quotes (or quotes after `escape`, which else stays as it is but
    before itself and a delimiter) and line breaks. A delimiter of several characters is not for quoted files."""
    with utf8(path, encoding) as file:
        lines = Lines(file, path.name)
        rows = split(lines, delimiter, quoted, escape)
        header = read_header(path, rows, required) if header is None else header
        for number, fields, raw in rows:
            yield from as_rows(number, fields, raw, header)


def read_header(path: Path, rows: Iterator[Fields], required: Sequence[str]) -> list[str]:
    first = next(rows, None)
    header = [name.strip() for name in first[1] or ()] if first else []
    check_columns(path, header, required)
    return header


def as_rows(number: int, fields: list[str] | None, raw: str, header: Sequence[str]) -> list[Row]:
    """One row; of one that cannot be read each of its lines, as a stray quote swallows lines."""
    if _broken(raw):
        reason = "wrong encoding"
    elif fields is None:
        reason = "broken quotes"
    elif len(fields) != len(header):
        reason = "wrong number of fields"
    else:
        return [Row(number, dict(zip(header, fields, strict=True)), None, raw)]
    return [Row(number + i, {}, reason, line) for i, line in enumerate(_printable(raw).split("\n"))]


def json_lines(
    path: Path, *, literals: bool = False, encoding: str = "utf-8", required: Sequence[str] = ()
) -> Iterator[Row]:
    """Records of a file with one JSON object a line. `literals`: lines that are not JSON may be Python literals, as in
    Amazon's metadata of 2014; they are parsed, never evaluated. A `required` field that no record has raises
    UserError."""
    seen: dict[str, None] = {}
    with utf8(path, encoding) as file:
        refuse_array(path, file)
        for row in json_rows(Lines(file, path.name), literals):
            if row.reason is None and required and len(seen) < MOST_FIELDS:
                seen |= dict.fromkeys(row.record)
            yield row
    if missing := [name for name in required if seen and name not in seen and len(seen) < MOST_FIELDS]:
        raise UserError(f"{path}: no row has a field {', '.join(missing)}; there are {', '.join(seen)}")


def refuse_array(path: Path, file: io.BufferedReader) -> None:
    if re.match(rb"\s*\[\s*(\{|$)", file.peek(1)[:256]):
        raise UserError(f"{path}: expected one JSON object a line, got a JSON array; jq -c '.[]' FILE writes its lines")


def json_rows(lines: Lines, literals: bool = False) -> Iterator[Row]:
    for line in lines:
        raw = line.strip()
        if not raw:
            continue
        if _broken(raw):
            yield Row(lines.number, {}, "wrong encoding", _printable(raw))
            continue
        record = parse(raw, literals)
        if isinstance(record, Repeated):
            lines.warn(f"a field stands twice in the object of line {lines.number}, {raw[:80]}; the first counts")
        fits = isinstance(record, dict)
        yield Row(lines.number, record if fits else {}, None if fits else "not a JSON object", raw)


class Lines:
    """The lines of a stream, and how many were taken. `put`: a block to go on with before the stream, and
    others behind it; `left`: lines of that block that were not taken yet. `name`: of the file, for `warn`."""

    def __init__(self, file: io.BufferedReader, name: str = "") -> None:
        self.file, self.number, self.left = file, 0, 0
        self.name, self.warned = name, False
        self.block: Iterator[bytes] = iter(())

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = next(self.block, b"") or self.file.readline()
        if not line:
            raise StopIteration
        self.number += 1
        self.left -= 1
        return line.decode("utf-8", "surrogateescape")

    def warn(self, line: str) -> None:
        """Prints the first warning of the file."""
        if not self.warned:
            say(f"warning: {self.name}: {line}")
        self.warned = True

    def take(self, size: int) -> bytes:
        """Whole lines, of some `size` bytes, or all that is left of blocks that were put."""
        if left := b"".join(self.block):
            return left
        block = self.file.read(size)
        return block + self.file.readline() if block[-1:] != b"\n" else block

    def put(self, block: bytes, *behind: bytes) -> None:
        self.block, self.left = iter(io.BytesIO(block + b"".join(behind))), count_lines(block)


def count_lines(block: bytes) -> int:
    return block.count(b"\n") + (block[-1:] != b"\n")


def parquet(path: Path, columns: Sequence[str] | None = None, required: Sequence[str] = ()) -> Iterator[Row]:
    """Records of a Parquet file; what is no UTF-8 stays bytes. `columns` None: all. Times are seconds since 1970 in the
    `required` ones, as in `parquet_blocks`."""
    file = open_parquet(path, required)
    names = file.schema_arrow.names
    kept = [name for name in names if columns is None or name in columns]
    with file, progress(file.metadata.num_rows, f"Reading {path.name}", "rows") as bar:
        number = 0
        for batch in parquet_batches(file, path, columns=kept):
            given = zip(kept, batch.columns, strict=True)
            read = [_values(_seconds(column) if name in required else column) for name, column in given]
            for values in zip(*read, strict=True):
                number += 1
                yield Row(number, dict(zip(kept, values, strict=True)), None, "")
            bar.advance(batch.num_rows)


def open_parquet(path: Path, required: Sequence[str] = ()) -> pq.ParquetFile:
    readable = plain(path)
    try:
        file = pq.ParquetFile(readable)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error
    schema = file.schema_arrow
    check_columns(path, schema.names, required)
    if spans := [name for name in required if pa.types.is_duration(schema.field(name).type)]:
        raise UserError(
            f"{path}: expected text, numbers or times, got durations in {', '.join(spans)}; write them as numbers, or "
            "name another column in source.columns"
        )
    return file


def decoded(column: pa.Array) -> pa.Array:
    """Bytes and UUIDs as text. Text and bytes of which some are no UTF-8 as bytes."""
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if getattr(kind, "extension_name", "") == "arrow.uuid":
        return pa.array([None if one is None else str(one) for one in column.to_pylist()], pa.string())
    if not any(fits(kind) for fits in TEXTS):
        return column
    try:
        return column.cast(pa.large_binary()).cast(pa.large_string())
    except pa.ArrowInvalid:
        return column.cast(pa.large_binary())


def broken_rows(batch: pa.RecordBatch) -> list[int]:
    """Places of the rows with bytes that are no UTF-8, where the columns come from `decoded`."""
    texts = [_values(column) for column in batch.columns if pa.types.is_large_binary(column.type)]
    return [i for i, row in enumerate(zip(*texts, strict=True)) if any(isinstance(value, bytes) for value in row)]


def _values(column: pa.Array) -> list[Any]:
    column = decoded(column)
    if pa.types.is_float16(column.type) or pa.types.is_float32(column.type):
        column = column.cast(pa.string()).cast(pa.float64())  # 9.99 stays 9.99
    if not (pa.types.is_nested(column.type) or pa.types.is_large_binary(column.type)):
        return column.to_pylist()
    return [_value(value) for value in column]


def _value(scalar: pa.Scalar) -> Any:
    """What holds bytes that are no UTF-8 is bytes."""

    def decode(value: Any) -> Any:
        if isinstance(value, bytes):
            return value.decode()
        if isinstance(value, list):
            return [decode(one) for one in value]
        return {name: decode(one) for name, one in value.items()} if isinstance(value, dict) else value

    try:
        return decode(scalar.as_py())
    except UnicodeDecodeError as error:
        return error.object


def _seconds(column: pa.Array) -> pa.Array:
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    return column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()) if pa.types.is_timestamp(column.type) else column


def check_columns(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    if missing := [name for name in required if name not in header]:
        raise UserError(
            f"{path}: expected the column{'s' * (len(missing) > 1)} {', '.join(missing)}, got "
            f"{', '.join(header) or 'no header'}; for a table, name its columns in source.columns, and set "
            "source.delimiter or source.encoding where these are not its names"
        )
    if twice := [name for name in required if header.count(name) > 1]:
        raise UserError(f"{path}: expected each column once, got {', '.join(twice)} twice; rename one of them")


def _broken(text: str) -> bool:
    """Bytes that are not in the file's encoding were read as lone surrogates."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _printable(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def split(lines: Lines, delimiter: str, quoted: bool, escape: str | None = None) -> Iterator[Fields]:
    """The number of its first line, fields (None: they cannot be told) and text of every row that is not blank."""
    return _quoted_rows(lines, delimiter, escape) if quoted else _plain_rows(lines, delimiter)


def _plain_rows(lines: Lines, delimiter: str) -> Iterator[Fields]:
    for line in lines:
        raw = line.rstrip("\r\n")
        if raw.strip():
            yield lines.number, raw.split(delimiter), raw


def _quoted_rows(lines: Lines, delimiter: str, escape: str | None) -> Iterator[Fields]:
    taken: list[str] = []  # the lines of the current row
    escaped = re.compile(re.escape(escape) + f'(["{re.escape(escape + delimiter)}]?)') if escape else None

    def kept(match: re.Match[str]) -> str:  # the mark is a letter as any other, but before what it can escape
        return match[0] if match[1] else 2 * match[0]

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield escaped.sub(kept, line) if escaped else line

    reader = csv.reader(feed(), delimiter=delimiter, strict=True, escapechar=escape)
    while True:
        taken.clear()
        number = lines.number + 1
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fields = None
        raw = "".join(taken).rstrip("\r\n")
        if fields and len(fields) > 1 and any(line.count(delimiter) >= len(fields) - 1 for line in taken[1:]):
            lines.warn(
                f"row {number} has a line within quotes that looks like a row of its own; if a quote is not closed "
                "there, rows are joined: remove it"
            )
        if raw.strip():
            yield number, fields, raw
