"""Progress with rate and time left: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from functools import cache, partialmethod
from typing import Any, Generic, TypeVar

from fisher_ld.core import ranks

T = TypeVar("T")


def say(*lines: str) -> None:
    """Lines for whoever watches, on standard error; what a command answers goes to standard output."""
    for line in lines:
        print(line, file=sys.stderr, flush=True)


class Progress(Generic[T]):
    """A bar with rate and time left on a terminal, else a plain line at most every 10 s. Made by `progress`."""

    interval = 10.0  # seconds between plain lines

    def __init__(self, items: Iterable[T] | None, total: int | None, label: str, unit: str, done: int):
        self.items, self.total, self.label, self.unit, self.done = items, total, label, unit, done
        self.resumed_at = done
        self.bar: Any = None

    def __enter__(self) -> Progress[T]:
        self.started = self.last_line = time.monotonic()
        if sys.stderr.isatty() and ranks.leader():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar

            rate = TextColumn("{task.fields[rate]}")
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), rate)
            times = (TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn())
            self.bar = Bar(*columns, *times, console=_console())
            self.bar.start()
            self.task = self.bar.add_task(self.label, total=self.total, completed=self.done, rate="")
        return self

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""
        self.done += n
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, rate=self._rate_text())
        elif time.monotonic() - self.last_line >= self.interval and ranks.leader():
            self.last_line = time.monotonic()
            say(self.line())

    def rate(self) -> float:
        """Units a second, of this process only (not what a checkpoint brought)."""
        return (self.done - self.resumed_at) / max(time.monotonic() - self.started, 1e-9)

    def _rate_text(self) -> str:
        return f"{self.rate():.3g} {self.unit}/s" if self.rate() < 100 else f"{self.rate():.0f} {self.unit}/s"

    def line(self) -> str:
        count = f"{self.done} {self.unit}"
        left = ""
        if self.total is not None:
            count = f"{self.done}/{self.total} {self.unit} ({100 * self.done / max(self.total, 1):.0f}%)"
            if self.rate() > 0:
                left = f", {_clock((self.total - self.done) / self.rate())} left"
        return f"{self.label}: {count}, {self._rate_text()}{left}"

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self.bar is not None:
            self.bar.stop()
        elif kind is None and ranks.leader() and (elapsed := time.monotonic() - self.started) >= self.interval / 2:
            count = f"{self.done} {self.unit} in {_clock(elapsed)} ({self._rate_text()})"
            say(f"{self.label}: {count}")

    def __iter__(self) -> Iterator[T]:
        if self.items is None:
            raise TypeError("progress(total, ...) is not iterable: use `with` and advance(), or pass the iterable")
        with self:
            for item in self.items:
                yield item
                self.advance()


@cache
def _console() -> Any:
    """One for all bars, so that a bar within another (validation within training) stands below it."""
    from rich.console import Console

    return Console(stderr=True)


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def progress(items: Iterable[T] | int | None, label: str, unit: str = "it", done: int = 0) -> Progress[T]:
    """`for x in progress(items, "Scoring")`, or `with progress(total, "Scoring") as bar: bar.advance(n)`, where a
    total of None is unknown. `done`: units that a checkpoint already brought."""
    if items is None or isinstance(items, int):
        return Progress(None, items, label, unit, done)
    return Progress(items, len(items) + done if isinstance(items, Sized) else None, label, unit, done)


def silence_bars() -> None:
    """Loading bars of libraries would flood a log, whether they are imported already or later."""
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "tqdm" in sys.modules:  # as torch does it; the variable is read when it is imported
        from tqdm import tqdm

        setattr(tqdm, "__init__", partialmethod(tqdm.__init__, disable=True))  # noqa: B010
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()
