"""The error a user can put right, and the full disk."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path


class UserError(Exception):
    """Something the user can put right: a stage prints the message without a traceback and exits with 1."""


class Unavailable(UserError):
    """What was asked for is not to be had here: a stage exits with 2."""


def is_disk_full(error: BaseException) -> bool:
    """Whether an error, or one it came from, means that no space was left. Libraries in Rust and C++ raise their
    own classes, so that the errno is only in the text."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        if any(text in str(seen) for text in ("No space left on device", "disk is full", "Disk quota exceeded")):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def disk_full_message(path: str | Path) -> str:
    folder = next(folder for folder in (Path(path).absolute(), *Path(path).absolute().parents) if folder.exists())
    free = shutil.disk_usage(folder).free / 2**20
    return f"disk full: {path} could not be written ({free:.0f} MiB free there). Free some space and run it again."
