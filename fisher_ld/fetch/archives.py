"""Zip archives (wheels too) and gzip files: unpacked with path checks, and checked to be whole."""

from __future__ import annotations

import gzip
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import progress
from fisher_ld.fetch.https import need_space, show_bytes

_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, gzip.BadGzipFile)


def unpack(archive: Path, folder: Path, members: Mapping[str, str]) -> None:
    """Writes chosen members of a zip archive, name in the archive -> name in `folder`. Raises UserError if any entry of
    the archive, chosen or not, is absolute, leaves the folder or is a symbolic link; if a member is missing or damaged.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            for entry in opened.infolist():
                _check_entry(archive, entry)
            if missing := sorted(set(members) - set(opened.namelist())):
                raise UserError(f"{archive}: expected {', '.join(missing)} in it, got {_some(opened.namelist())}.")
            need_space(folder, sum(opened.getinfo(name).file_size for name in members), f"unpacking {archive.name}")
            for name, target in members.items():
                with opened.open(name) as source, (folder / target).open("xb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
    except (*_BROKEN, RuntimeError, NotImplementedError) as error:  # the last two: encrypted, unknown compression
        raise UserError(f"{archive}: not a zip archive that can be read ({error}); delete it and run again.") from error


def check_whole(path: Path, name: str) -> None:
    """Raises UserError if `path`, which by `name` is a zip or gzip file, is cut or damaged (its own CRCs are read).
    Other files have no inner sum and pass."""
    try:
        if name.endswith((".zip", ".whl")):
            with zipfile.ZipFile(path) as opened:
                if damaged := opened.testzip():
                    raise zipfile.BadZipFile(f"wrong CRC of {damaged}")
        elif name.endswith(".gz"):
            with (
                path.open("rb") as raw,
                gzip.open(raw) as unzipped,
                progress(path.stat().st_size // 1000, f"Checking {name}", "kB") as bar,
            ):
                while unzipped.read(1 << 20):
                    show_bytes(bar, raw.tell())
    except _BROKEN as error:
        raise UserError(f"{name}: the file is cut or damaged ({error}). Not kept; run it again.") from error


def _check_entry(archive: Path, entry: zipfile.ZipInfo) -> None:
    name = entry.orig_filename
    if name.startswith("/") or "\\" in name or re.match("[A-Za-z]:", name) or ".." in PurePosixPath(name).parts:
        raise UserError(f"{archive}: the entry {name!r} points outside the folder; nothing was unpacked.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise UserError(f"{archive}: the entry {name!r} is a symbolic link; nothing was unpacked.")


def _some(names: list[str]) -> str:
    return ", ".join(sorted(names)[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
