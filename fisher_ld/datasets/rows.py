"""Raw files -> records, one at a time; what cannot be read comes with a reason instead of stopping the file."""

from __future__ import annotations

import ast
import csv
import gzip
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import progress


class Row(NamedTuple):
    number: int  # of its first line in the file, from 1; in Parquet of the row
    record: Mapping[str, Any]
    reason: str | None  # why it cannot be read; the record is then empty
    raw: str  # empty for Parquet, where the record is all there is


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
) -> Iterator[Row]:
    """Records of a delimited file. `header` None: it is the first line; a `required` column it lacks raises UserError.
    A `quoted` field may hold delimiters, doubled quotes and line breaks. A delimiter of several characters is not
    for quoted files."""
    with _text_lines(path, encoding) as lines:
        rows = _quoted_rows(lines, delimiter) if quoted else _plain_rows(lines, delimiter)
        if header is None:
            first = next(rows, None)
            header = [name.strip() for name in first[1] or ()] if first else ()
            _check_columns(path, header, required)
        for number, fields, raw in rows:
            if _broken(raw):
                reason = "wrong encoding"
            elif fields is None:
                reason = "broken quotes"
            elif len(fields) != len(header):
                reason = "wrong number of fields"
            else:
                yield Row(number, dict(zip(header, fields, strict=True)), None, raw)
                continue
            for i, line in enumerate(_printable(raw).split("\n")):  # a stray quote swallows lines: each counts
                yield Row(number + i, {}, reason, line)


def json_lines(path: Path, *, literals: bool = False) -> Iterator[Row]:
    """Records of a file with one JSON object a line. `literals`: lines that are not JSON may be Python literals, as in
    Amazon's metadata of 2014; they are parsed, never evaluated."""
    with _text_lines(path, "utf-8") as lines:
        for number, line in enumerate(lines, 1):
            raw = line.strip()
            if not raw:
                continue
            if _broken(raw):
                yield Row(number, {}, "wrong encoding", _printable(raw))
                continue
            record = _parse(raw, literals)
            yield Row(number, record or {}, None if record is not None else "not a JSON object", raw)


def parquet(path: Path, columns: Sequence[str] | None = None, required: Sequence[str] = ()) -> Iterator[Row]:
    """Records of a Parquet file, times as seconds since 1970. `columns` None: all."""
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file ({error})") from error
    names = file.schema_arrow.names
    _check_columns(path, names, required)
    kept = [name for name in names if columns is None or name in columns]
    with file, progress(file.metadata.num_rows, f"Reading {path.name}", "rows") as bar:
        number = 0
        for batch in file.iter_batches(columns=kept):
            batch = pa.RecordBatch.from_arrays([_seconds(column) for column in batch.columns], names=kept)
            for record in batch.to_pylist():
                number += 1
                yield Row(number, record, None, "")
            bar.advance(batch.num_rows)


def _parse(text: str, literals: bool) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        if not literals:
            return None
        try:
            record = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
    return record if isinstance(record, dict) else None


def _seconds(column: pa.Array) -> pa.Array:
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("s"))
    return column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()) if pa.types.is_timestamp(column.type) else column


def _check_columns(path: Path, header: Sequence[str], required: Sequence[str]) -> None:
    if missing := [name for name in required if name not in header]:
        raise UserError(
            f"{path}: expected the column{'s' * (len(missing) > 1)} {', '.join(missing)}, got "
            f"{', '.join(header) or 'no header'}; for a table, name its columns in source.columns"
        )


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


def _plain_rows(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | None, str]]:
    for number, line in enumerate(lines, 1):
        raw = line.rstrip("\r\n")
        if raw.strip():
            yield number, raw.split(delimiter), raw


def _quoted_rows(lines: Iterator[str], delimiter: str) -> Iterator[tuple[int, list[str] | None, str]]:
    taken: list[str] = []  # the lines of the current row

    def feed() -> Iterator[str]:
        for line in lines:
            taken.append(line)
            yield line

    reader, number = csv.reader(feed(), delimiter=delimiter, strict=True), 1
    while True:
        taken.clear()
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            fields = None
        raw = "".join(taken).rstrip("\r\n")
        if raw.strip():
            yield number, fields, raw
        number += len(taken)


@contextmanager
def _text_lines(path: Path, encoding: str) -> Iterator[Iterator[str]]:
    """Lines of a text file, unpacked where its name ends in .gz. A gzip file that is cut or no gzip: UserError."""
    size = path.stat().st_size
    with open(path, "rb") as file, progress(size, f"Reading {path.name}", "bytes") as bar:

        def decoded(lines: Iterable[bytes]) -> Iterator[str]:
            for number, line in enumerate(lines):
                if number % 1024 == 0:
                    bar.advance(file.tell() - bar.done)
                text = line.decode(encoding, "surrogateescape")
                yield text if number else text.removeprefix("\ufeff")
            bar.advance(size - bar.done)

        try:
            yield decoded(gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{path}: cannot be unpacked ({error}); run dvc repro -f download") from error
