"""Faults, laid into the process of a stage before it starts. Writes are counted where all of the project's pass: the
`os.replace` and `Path.rename` by which a file or folder gets its name, and the opening of files to write."""

from __future__ import annotations

import builtins
import ctypes
import errno
import fcntl
import io
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def _ours(path: Any) -> bool:
    """Whether a path is one of the project's outputs, checkpoints or locks."""
    return isinstance(path, str | os.PathLike) and not os.fspath(path).startswith(("/dev", "/proc", "/sys"))


def _before(owner: Any, name: str, act: Callable[..., None]) -> None:
    """`act` before each call of a function, with its arguments."""
    real = getattr(owner, name)

    def call(*given: Any, **options: Any) -> Any:
        act(*given, **options)
        return real(*given, **options)

    setattr(owner, name, call)


def _at_write(opened: Callable[[Any], object], named: Callable[[Any], object]) -> None:
    """These with the path, before a file is opened to write, and before a file or folder gets its name."""

    def before_open(file: Any, mode: str = "r", *given: Any, **options: Any) -> None:
        if _ours(file) and set(mode) & set("wax+"):
            opened(file)

    _before(builtins, "open", before_open)
    _before(io, "open", before_open)
    _before(os, "replace", lambda source, target: named(target))
    _before(Path, "rename", lambda source, target: named(target))


def full(number: int) -> None:
    """At the `number`-th write, from 0, the disk is full; later ones get names, but nothing can be written."""
    seen = iter(range(1 << 62))

    def fail(path: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))

    _at_write(
        lambda path: fail(path) if next(seen) >= number else None,
        lambda path: fail(path) if next(seen) == number else None,
    )


def kill(number: int) -> None:
    """kill -9 before the `number`-th write, from 0."""
    seen = iter(range(1 << 62))
    end = lambda path: os.kill(os.getpid(), signal.SIGKILL) if next(seen) == number else None  # noqa: E731
    _at_write(end, end)


def count(file: str) -> None:
    """No fault: leaves in `file` how often the process wrote."""
    seen: list[Any] = []
    stream = os.open(file, os.O_CREAT | os.O_TRUNC | os.O_RDWR)
    os.pwrite(stream, b"0", 0)
    note = lambda path: (seen.append(path), os.pwrite(stream, str(len(seen)).encode(), 0))  # noqa: E731
    _at_write(note, note)


def no_flock(number: int) -> None:
    """A file system without locks, by this errno."""

    def fail(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = fail


def clock(*steps: float) -> None:
    """The clock is moved by so many seconds, by the next of `steps` at each look at it, by the last from then on."""
    real, left = time.time, list(steps)
    time.time = lambda: real() + (left.pop(0) if len(left) > 1 else left[0])


def ordinary() -> None:
    """Takes from this process what the superuser may do beyond the permissions of files."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # linux/capability.h, version 3
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
