"""One http(s) address -> one file on disk; a cut download goes on where it stopped."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import ssl
import string
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

from fisher_ld.core.errors import Unavailable, UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.core.progress import Progress, progress

_BLOCK = 1 << 18  # bytes
_TEMPORARY = {408, 425, 429, 500, 502, 503, 504}  # HTTP statuses that a later try can mend


class _Cut(Exception):
    """A failure that another try can mend."""


class _UnknownHost(_Cut):
    """Most often there is no network, which takes more than the seconds between tries."""


@dataclass(frozen=True)
class _Answer:
    """What the server is about to send: bytes from `start`; the whole file's length and version, None if unknown."""

    start: int
    total: int | None
    version: str | None


def need_space(folder: Path, size: int, purpose: str) -> None:
    """Raises UserError where the disk of `folder` has less than `size` bytes free."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise UserError(
            f"{purpose}: needs {size:,} bytes, but only {free:,} are free at {folder}. Free some space, run it again."
        )


def show_bytes(bar: Progress[None], done: int) -> None:
    """Moves a bar that counts kB to `done` bytes."""
    bar.advance(done // 1000 - bar.done)


def sizes(folder: Path) -> list[int]:
    """Bytes of each file below a folder that something else writes to, after a 0. What vanishes meanwhile, a file or a
    folder, counts nothing."""
    found = [0]
    for inside, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):
                found.append(os.stat(os.path.join(inside, name)).st_size)
    return found


def download(
    address: str, part: Path, size: int | None, resumable: bool, tries: int, wait: float, timeout: float
) -> None:
    """Downloads `address` to `part`, whose length is checked against `size` (where known) and against the server's.

    A failed try is repeated after wait, 2 wait, 4 wait, ... seconds, `tries` in all, from where it stopped: with an
    HTTP Range that the server must answer from the same version of the file (If-Range), or, if the server names no
    version, only where the caller can tell a mixed file by its checksum (`resumable`). What is there of `part` from an
    earlier call is gone on with in the same way. A host that has no address is not asked again. Raises UserError,
    which is Unavailable where the file did not come; `part` then holds what came, for the next call.
    """
    failure = ""
    for attempt in range(tries):
        if attempt:
            time.sleep(wait * 2 ** (attempt - 1))
        try:
            _once(address, part, size, resumable, timeout)
            _notes(part).unlink(missing_ok=True)
            return
        except _UnknownHost as unknown:
            failure = str(unknown)
            break
        except _Cut as cut:
            failure = f"{cut} ({attempt + 1} tries)"
    kept = f" {part.stat().st_size:,} bytes are kept in {part}." if part.exists() else ""
    raise Unavailable(
        f"{address}: {failure}.{kept} Check the address and the network (a proxy goes into "
        "HTTPS_PROXY), then run it again."
    )


def _once(address: str, part: Path, size: int | None, resumable: bool, timeout: float) -> None:
    notes: dict[str, Any] = {"total": None, "version": None}
    if _notes(part).exists():
        notes = read_json(_notes(part))
    if not (notes["version"] or resumable):
        part.unlink(missing_ok=True)
    have = part.stat().st_size if part.exists() else 0
    if have and have == (size or notes["total"]):
        return

    headers = {"User-Agent": "fisher-ld", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if notes["version"]:
            headers["If-Range"] = notes["version"]
    with _open(address, headers, part, timeout) as response:
        answer = _read_headers(address, response)
        if size is not None and answer.total is not None and answer.total != size:
            raise UserError(
                f"{address}: expected a file of {size:,} bytes, but the server offers {answer.total:,}: another "
                "version, or another file. Nothing was kept."
            )
        if answer.total is None and size is None and not resumable and not response.chunked:
            raise UserError(
                f"{address}: the server does not say how long the file is, so that a cut could not be told from the "
                "end. Download it by other means and give the path of the file."
            )
        if answer.start and (answer.start != have or answer.total != (notes["total"] or answer.total)):
            part.unlink(missing_ok=True)
            raise _Cut(f"asked for bytes from {have:,} of {notes['total']}, got {answer.start:,} of {answer.total}")
        _write(response, answer, part)

    got, expected = part.stat().st_size, size or answer.total
    if expected is not None and got != expected:
        if got > expected:
            part.unlink()
        raise _Cut(f"the connection ended at {got:,} of {expected:,} bytes")


def _encoded(address: str) -> str:
    """With letters beyond ASCII, and blanks, as HTTP takes them."""
    parts = urlsplit(address)
    path, query = (quote(part, safe=string.punctuation) for part in (parts.path, parts.query))
    return urlunsplit(parts._replace(path=path, query=query))


def _open(address: str, headers: dict[str, str], part: Path, timeout: float) -> http.client.HTTPResponse:
    try:
        request = urllib.request.Request(_encoded(address), headers=headers)
        host = request.host
        host.encode("idna")
    except ValueError as error:  # UnicodeError is one
        raise UserError(f"{address}: expected an address ({error})") from error
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == 416:  # what we have does not fit the server's file
            part.unlink(missing_ok=True)
            raise _Cut("the server refused to go on with the part that is here") from error
        if error.code in _TEMPORARY:
            raise _Cut(f"HTTP {error.code} {error.reason}") from error
        hint = "no such file; check the address (and the category)" if error.code in (404, 410) else "check the address"
        raise Unavailable(f"{address}: expected the file, got HTTP {error.code} {error.reason}: {hint}.") from error
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", error)
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise UserError(
                f"{address}: the certificate of {host} cannot be trusted ({reason.verify_message})"
            ) from error
        if isinstance(reason, socket.gaierror):
            raise _UnknownHost(f"unknown host {host}") from error
        raise _Cut(f"no answer from {host} ({reason or type(reason).__name__})") from error
    if request.type == "https" and not response.url.startswith("https:"):
        response.close()
        raise UserError(f"{address}: redirected to {response.url}, which is not https; refused.")
    return response


def _read_headers(address: str, response: http.client.HTTPResponse) -> _Answer:
    etag, modified = response.headers.get("ETag"), response.headers.get("Last-Modified")
    version = etag if etag and not etag.startswith("W/") else modified
    if response.status == 206:
        stated = response.headers.get("Content-Range", "")
        if not (match := re.fullmatch(r"bytes (\d+)-\d+/(\d+)", stated)):
            raise UserError(f"{address}: expected a Content-Range 'bytes FIRST-LAST/LENGTH', got {stated!r}.")
        return _Answer(int(match[1]), int(match[2]), version)
    if response.status != 200:
        raise UserError(f"{address}: expected the file (HTTP 200 or 206), got HTTP {response.status}.")
    length = response.headers.get("Content-Length")
    return _Answer(0, int(length) if length is not None else None, version)


def _write(response: http.client.HTTPResponse, answer: _Answer, part: Path) -> None:
    need_space(part.parent, (answer.total or 0) - answer.start, f"download of {part.stem}")
    write_json(_notes(part), {"total": answer.total, "version": answer.version})
    done = answer.start
    total = None if answer.total is None else answer.total // 1000
    with (
        part.open("ab" if answer.start else "wb") as file,
        progress(total, f"Downloading {part.stem}", "kB", done=done // 1000) as bar,
    ):
        for block in _blocks(response):
            file.write(block)
            done += len(block)
            show_bytes(bar, done)


def _blocks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Errors of the network are told from those of the disk by where they arise."""
    while True:
        try:
            block = response.read(_BLOCK)
        except (OSError, http.client.HTTPException) as error:
            raise _Cut(f"the connection broke ({error or type(error).__name__})") from error
        if not block:
            return
        yield block


def _notes(part: Path) -> Path:
    """Which version of the file `part` is a piece of."""
    return part.with_name(part.name + ".json")
