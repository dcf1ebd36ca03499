"""Files as they come -> bytes in UTF-8, unpacked, with line feeds; and what encoding a file seems to have."""

from __future__ import annotations

import codecs
import gzip
import io
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa

from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import Progress, progress

CHUNK = 1 << 20
SCANNED = 1 << 26  # bytes of a file that are searched for its encoding
PACKED = (".gz", ".zst")
BROKEN = (EOFError, gzip.BadGzipFile, zlib.error)
BYTE_ORDERS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@contextmanager
def utf8(path: Path, encoding: str = "utf-8") -> Iterator[io.BufferedReader]:
    """The text of a file, unpacked where its name ends so. Bytes that `encoding` lacks stay as they are,
    which is no UTF-8. A byte order mark is left out; a lone carriage return ends a line where the file has no line
    feed. Raises UserError for an archive that is cut or none."""
    with open(path, "rb") as file, progress(path.stat().st_size, f"Reading {path.name}", "bytes") as bar:
        with _unpacked(path, file) as inner:
            yield io.BufferedReader(_Text(inner, file, encoding, bar), CHUNK)
        bar.advance(path.stat().st_size - bar.done)


def plain(path: Path) -> Path | BinaryIO:
    """The file, for readers that go to and fro in it: one that is packed as an unpacked copy, which goes when it is no
    longer read. Raises UserError for an archive that is cut or none."""
    if path.suffix not in PACKED:
        return path
    copy = tempfile.TemporaryFile(dir=path.parent)  # noqa: SIM115 - goes with its reader
    with open(path, "rb") as file, _unpacked(path, file) as inner:
        shutil.copyfileobj(inner, copy, CHUNK)
    copy.seek(0)
    return copy


def find_encoding(path: Path) -> str:
    """UTF-16 by its byte order mark or zeros; cp1252 where most lines with other letters than ASCII's are no UTF-8."""
    with open(path, "rb") as file, _unpacked(path, file) as inner:
        block = inner.read(CHUNK)
        if block.startswith(BYTE_ORDERS):
            return "utf-16"
        zeros = [start for start in (0, 1) if len(block) > 3 and not block[start:64:2].strip(b"\0")]
        if zeros:
            return ("utf-16-be", "utf-16-le")[zeros[0]]
        good = bad = read = 0
        while block and read < SCANNED:
            read += len(block)
            block += inner.readline()
            if not block.isascii():
                valid = [_is_utf8(line) for line in block.splitlines() if not line.isascii()]
                good, bad = good + sum(valid), bad + len(valid) - sum(valid)
            block = inner.read(CHUNK)
        return "cp1252" if bad > good else "utf-8"


def is_empty(path: Path) -> bool:
    """Whether a text file has nothing but blanks, byte order marks and zeros."""
    with open(path, "rb") as file, _unpacked(path, file) as inner:
        return not inner.read(CHUNK).strip(b"".join((codecs.BOM_UTF8, *BYTE_ORDERS, b" \t\r\n\0")))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


@contextmanager
def _unpacked(path: Path, file: BinaryIO) -> Iterator[Any]:
    try:
        if path.suffix == ".gz":
            yield gzip.GzipFile(fileobj=file)
        elif path.suffix == ".zst":
            yield io.BufferedReader(_Zst(pa.CompressedInputStream(file, "zstd")), CHUNK)
        else:
            yield file
    except BROKEN as error:
        raise UserError(f"{path}: cannot be unpacked ({error}); run dvc repro -f download") from error


class _Zst(io.RawIOBase):
    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        try:
            data = self.inner.read(len(target))
        except OSError as error:
            raise EOFError(str(error)) from error
        target[: len(data)] = data
        return len(data)


class _Text(io.RawIOBase):
    def __init__(self, inner: Any, file: BinaryIO, encoding: str, bar: Progress[Any]) -> None:
        self.inner, self.file, self.bar, self.encoding = inner, file, bar, encoding
        errors = "replace" if encoding.startswith("utf-16") else "surrogateescape"
        self.decoder = codecs.getincrementaldecoder(encoding)(errors)
        self.plain = codecs.lookup(encoding).name == "utf-8"
        self.left, self.begun, self.returns = b"", False, False

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        if not self.left:
            self.left = self._next()
        data, self.left = self.left[: len(target)], self.left[len(target) :]
        target[: len(data)] = data
        return len(data)

    def _next(self) -> bytes:
        data = b""
        while not data:
            raw = data = self.inner.read(CHUNK)
            self.bar.advance(self.file.tell() - self.bar.done)
            if not self.plain:
                data = self._decode(raw)
            if not self.begun:
                self.begun, data = True, data.removeprefix(codecs.BOM_UTF8)
                self.returns = b"\r" in data and b"\n" not in data
            if not raw:
                break
        return data.replace(b"\r", b"\n") if self.returns else data

    def _decode(self, raw: bytes) -> bytes:
        try:
            return self.decoder.decode(raw, final=not raw).encode("utf-8", "surrogateescape")
        except UnicodeError as error:
            raise UserError(
                f"{self.file.name}: expected text in {self.encoding}, got other bytes ({error}); set source.encoding "
                "to that of the file, or leave it out where the files differ"
            ) from error
