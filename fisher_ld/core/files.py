"""Files written whole or not at all, JSON, YAML, fingerprints of contents."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from fisher_ld.core import ranks
from fisher_ld.core.errors import UserError, disk_full_message, is_disk_full, reading

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa
    import pyarrow.parquet as pq


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _open_to_others(path: Path) -> None:
    """As far as the umask allows: safetensors writes files for their owner alone."""
    mask = os.umask(0)
    os.umask(mask)
    for file in (path, *path.rglob("*")):
        if file.is_file() and not file.is_symlink() and not file.stat().st_mode & 0o077:
            file.chmod(0o666 & ~mask)


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yields a temporary sibling of `path` (same suffix; nothing exists there yet) to write a file or a folder to.
    Renamed onto `path` at the end, in place of what was there; removed on failure. A full disk raises UserError. What a
    rank writes that is not the leader goes nowhere."""
    path = Path(path)
    if not ranks.leader():
        with TemporaryDirectory() as folder:
            yield Path(folder) / path.name
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary, old = path.parent / f".new-{path.name}", path.parent / f".old-{path.name}"
    if old.exists() and not path.exists():  # by a kill between two renames
        old.rename(path)
    for left in (temporary, old):  # by a kill
        _remove(left)
    try:
        yield temporary
        _open_to_others(temporary)
        if temporary.is_dir() and path.exists():  # a folder cannot be renamed onto a full one
            path.rename(old)
            temporary.rename(path)
            _remove(old)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        if old.exists() and not path.exists():
            old.rename(path)
        _remove(temporary)
        if is_disk_full(error):
            raise UserError(disk_full_message(path)) from error
        raise


def plain(value: Any) -> Any:
    """JSON's default hook: NumPy scalars and arrays, paths, sections of params."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"cannot be written as JSON: {type(value).__name__}")


def _not_finite(value: Any, key: str = "") -> str | None:
    if isinstance(value, Mapping):
        return next((k for name, v in value.items() if (k := _not_finite(v, f"{key}.{name}"))), None)
    if isinstance(value, list | tuple):
        return next((k for i, v in enumerate(value) if (k := _not_finite(v, f"{key}.{i}"))), None)
    if isinstance(value, float | np.floating) and not math.isfinite(value):
        return f"{key.lstrip('.') or 'the value'} is {value}"
    return None


def write_json(path: str | Path, obj: Any) -> None:
    """Writes atomically. NaN and infinity, which are not JSON, raise ValueError naming the key."""
    if bad := _not_finite(obj):
        raise ValueError(f"{path}: {bad}; JSON holds finite numbers only")
    text = json.dumps(obj, indent=2, default=plain, allow_nan=False, ensure_ascii=False)
    with atomic_path(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def write_csv(path: str | Path, frame: pl.DataFrame) -> None:
    with atomic_path(path) as temporary:
        frame.write_csv(temporary)


def present(path: str | Path) -> Path:
    """Raises UserError where there is no such file."""
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file; run the stage that writes it (dvc repro)")
    return Path(path)


def read_json(path: str | Path) -> Any:
    try:
        return json.loads(present(path).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not JSON ({error}); delete it and run the stage that writes it") from error


def parquet_batches(file: pq.ParquetFile, path: Path, **how: Any) -> Iterator[pa.RecordBatch]:
    """Raises UserError where a page is damaged."""
    with reading(path, "write or fetch it again"):
        yield from file.iter_batches(**how)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A mapping as DVC reads it (YAML 1.2, where `yes` and `no` are words and 1e-4 is a number). Raises UserError if
    the file is missing, empty or no mapping."""
    from ruamel.yaml import YAML, YAMLError

    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file in {Path.cwd()}; run from the project's root")
    try:
        content = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not YAML: {error}") from None
    if not content:
        raise UserError(f"{path}: empty; restore it from git (git checkout {path})")
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected sections with keys, got {type(content).__name__} {str(content)[:60]!r}")
    return content


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(paths: Iterable[str | Path]) -> dict[str, str]:
    """Path as given -> BLAKE2b of its contents; a folder's covers the names and contents of all files in it."""

    def digest(file: Path) -> bytes:
        with open(file, "rb") as stream:
            return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=16)).digest()

    result = {}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        for given in paths:
            path = Path(given)
            if not path.exists():
                raise UserError(f"{path}: no such file or folder; run the stage that writes it (dvc repro)")
            files = sorted(f for f in path.rglob("*") if f.is_file()) if path.is_dir() else [path]
            whole = hashlib.blake2b(digest_size=16)
            for file, part in zip(files, pool.map(digest, files), strict=True):
                name = str(file.relative_to(path)).encode()
                whole.update(len(name).to_bytes(4, "big") + name + part)
            result[str(given)] = whole.hexdigest()
    return result
