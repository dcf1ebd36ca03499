"""The errors a user can put right, a full disk, lacking permissions and lacking memory among them."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FULL = (errno.ENOSPC, errno.EDQUOT), ("No space left on device", "disk is full", "Disk quota exceeded")
DENIED = (errno.EACCES, errno.EPERM, errno.EROFS), ("Permission denied", "Read-only file system", "readonly database")
MEMORY = (errno.ENOMEM,), (
    "out of memory", "t allocate memory", "Cannot allocate memory", "Unable to allocate", "Failed to allocate memory",
    "bad_alloc", "bad allocation", "ALLOC_FAILED",
)  # fmt: skip
KNOWN = "(Llama, Qwen, Mistral, Gemma, GPT-2)"  # architectures
WHOLE = "copy the model's folder whole, or write it again"
ANOTHER = f"take a teacher of another architecture {KNOWN}"


class UserError(Exception):
    """Something the user can put right: a stage prints the message without a traceback and exits with 1."""


class Unavailable(UserError):
    """What was asked for is not to be had here: a stage exits with 2."""


@contextmanager
def reading(what: str | Path, remedy: str) -> Iterator[None]:
    """Turns what libraries raise for a damaged file, each a class of its own, into a UserError. What the system says
    of a path stays, and so do a UserError and a lack of memory."""
    try:
        yield
    except Exception as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno) or _is_out_of_memory(error):
            raise
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{what}: cut, damaged or of another kind ({said}); {remedy}") from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _first(error: BaseException, numbers: tuple[int, ...], texts: tuple[str, ...]) -> BaseException | None:
    """The first of the chain with one of these. Libraries in Rust and C++ raise their own classes, so that the errno is
    only in the text."""
    for seen in _chain(error):
        if (isinstance(seen, OSError) and seen.errno in numbers) or any(text in str(seen) for text in texts):
            return seen
    return None


def _is_out_of_memory(error: BaseException) -> bool:
    return any(isinstance(seen, MemoryError) for seen in _chain(error)) or _first(error, *MEMORY) is not None


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one it came from, means that no space was left."""
    return _first(error, *FULL) is not None


def disk_full_message(path: str | Path) -> str:
    folder = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free / 2**20
    return f"disk full: {path} could not be written ({free:.0f} MiB free there). Free some space and run it again."


def told(error: BaseException) -> str | None:
    """What a person reads of an error that they can put right; None for a bug."""
    if isinstance(error, UserError):
        return str(error)
    if full := _first(error, *FULL):
        return disk_full_message(getattr(full, "filename", None) or Path.cwd())
    if denied := _first(error, *DENIED):
        place = getattr(denied, "filename", None)
        what = f"{place}: {getattr(denied, 'strerror', '')}" if place else str(denied).splitlines()[0]
        return f"{what}. Give this user the right to read and write there (chmod, chown, mount), then run it again."
    if _is_out_of_memory(error):
        said = " ".join(str(error).split())[:200] or type(error).__name__
        return (
            f"out of memory ({said}). Free some and run it again, or let a stage of a model take less: raise "
            "cluster.pieces, lower cluster.batch_users, or set cluster.checkpointing: true (docs/cluster.md)"
        )
    return None
