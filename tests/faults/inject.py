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


def _at_write(act: Callable[[Any], object]) -> None:
    """`act` with the path, before a file is opened to write and before one gets its name."""

    def opened(file: Any, mode: str = "r", *given: Any, **options: Any) -> None:
        if _ours(file) and set(mode) & set("wax+"):
            act(file)

    _before(builtins, "open", opened)
    _before(io, "open", opened)
    _before(os, "replace", lambda source, target: act(target))
    _before(Path, "rename", lambda source, target: act(target))


def _nth(number: int, act: Callable[[Any], None]) -> Callable[[Any], None]:
    """`act` at the `number`-th call, from 0, and at all after it."""
    seen = iter(range(1 << 62))

    def count(path: Any) -> None:
        if next(seen) >= number:
            act(path)

    return count


def full(number: int) -> None:
    """From the `number`-th write on the disk is full."""

    def fail(path: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", os.fspath(path))

    _at_write(_nth(number, fail))


def kill(number: int) -> None:
    """kill -9 before the `number`-th write."""
    _at_write(_nth(number, lambda path: os.kill(os.getpid(), signal.SIGKILL)))


def no_flock(number: int) -> None:
    """A file system without locks, by this errno."""

    def fail(*given: Any) -> None:
        raise OSError(number, os.strerror(number))

    fcntl.flock = fail


def clock(*steps: float) -> None:
    """The clock is moved by so many seconds, by the next of `steps` at each look at it, by the last from then on."""
    real, left = time.time, list(steps)
    time.time = lambda: real() + (left.pop(0) if len(left) > 1 else left[0])


def count(file: str) -> None:
    """No fault: leaves in `file` how often the process wrote."""
    seen: list[Any] = []
    stream = os.open(file, os.O_CREAT | os.O_RDWR)
    _at_write(lambda path: (seen.append(path), os.pwrite(stream, str(len(seen)).encode(), 0)))


def ordinary() -> None:
    """Takes from this process what the superuser may do beyond the permissions of files."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()  # linux/capability.h, version 3
    if ctypes.CDLL(None, use_errno=True).capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")
