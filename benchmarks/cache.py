"""Speed of reading the teacher's cache, against reading as many bytes from one plain file.

    python -m benchmarks.cache                          a random cache of the default teacher's shape, 1,000 users
    python -m benchmarks.cache --data movielens-100k    a real one, that of a data set

One process, the contestants in turn, medians. Both deliver the same number of bytes in pieces of the same sizes, into
fresh memory. The cache is read in the shuffled order of training, the file from front to end. `warm`: the files are in
memory already; `cold`: the system is told to drop them first (which it may not do for all of them).
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from fisher_ld.batches.lists import Lists, make_lists, read_taught
from fisher_ld.batches.packing import by_length
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.cache import CacheWriter, TeacherCache
from fisher_ld.distillation.signals import Sizes
from fisher_ld.distillation.terms import BASIC

LAYERS, WIDTH = 30, 576
USERS, WINDOWS, LISTS, CANDIDATES = 1000, 2, 2, 5  # windows a user, lists a window, candidates a list
BATCH_USERS, REPEATS = 4, 7


def random_lists() -> Lists:
    count = USERS * WINDOWS * LISTS
    user, place = np.divmod(np.arange(count), WINDOWS * LISTS)
    start = place // LISTS * 10
    columns = {"user": user, "start": start, "position": start + 10 + place % LISTS, "positive": np.zeros(count, int)}
    return make_lists(columns, [np.arange(CANDIDATES)] * count, [])


def random_cache(folder: Path, examples: int) -> Path:
    sizes = Sizes(LAYERS, WIDTH, tokens=1)
    writer = CacheWriter(folder / "work", BASIC, examples, sizes, 8192, {})
    for rows in np.split(np.arange(examples), range(2000, examples, 2000)):
        states = torch.randn(len(rows), LAYERS, WIDTH).half().numpy()
        writer.write(rows, {"logits": np.zeros(len(rows), np.float32), "states": states})
    writer.finish(folder / "cache")
    return folder / "cache"


def orders(lists: Lists) -> list[np.ndarray]:
    """The example ids of every training batch of one epoch."""
    windows = lists.windows()
    candidates = np.array([sum(len(lists.candidates[i]) for i in window) for window in windows])
    batches = by_length(windows, candidates, BATCH_USERS, seed=0)
    return [lists.examples(np.concatenate(batch)) for batch in batches]


def read_cache(folder: Path, batches: list[np.ndarray]) -> float:
    cache = TeacherCache.open(folder, BASIC)
    begin = time.perf_counter()
    for batch in batches:
        for name in BASIC:
            cache.read(batch, name)
    return time.perf_counter() - begin


def read_plain(path: Path, sizes: list[int]) -> float:
    begin = time.perf_counter()
    with open(path, "rb", buffering=0) as stream:
        for size in sizes:
            if len(stream.read(size)) != size:
                raise UserError(f"{path}: shorter than the cache")
    return time.perf_counter() - begin


def drop(paths: list[Path]) -> None:
    for path in paths:
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def reading(folder: Path, lists: Lists, plain: Path) -> None:
    cache, batches = TeacherCache.open(folder, BASIC), orders(lists)
    row = cache.layers * 2 * cache.width + 4  # states, logit
    sizes = [len(batch) * row for batch in batches]
    total, chunk = sum(sizes), os.urandom(1 << 20)
    with open(plain, "wb") as stream:
        for begin in range(0, total, len(chunk)):
            stream.write(chunk[: total - begin])
    del cache
    files = [plain, *folder.glob("*.npy")]
    contestants: dict[str, Callable[[], float]] = {
        "cache": lambda: read_cache(folder, batches),
        "plain file": lambda: read_plain(plain, sizes),
    }
    print(f"{sum(map(len, batches))} examples in {len(batches)} batches, {total / 2**20:.0f} MiB")
    for state in ("warm", "cold"):
        times: dict[str, list[float]] = {name: [] for name in contestants}
        for repeat in range(REPEATS + 1):
            for name, read in contestants.items():
                if state == "cold":
                    drop(files)
                seconds = read()
                if repeat:  # the first round fills the memory
                    times[name].append(seconds)
        median = {name: statistics.median(values) for name, values in times.items()}
        speeds = ", ".join(f"{name} {total / 2**20 / seconds:.0f} MiB/s" for name, seconds in median.items())
        ratio = median["plain file"] / median["cache"]
        print(f"{state}: {speeds}; the cache has {ratio:.2f} of the plain file's speed (goal: 0.5)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", help="a data set whose cache is there")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.data:
            paths = DataPaths(arguments.data)
            lists, folder = read_taught(paths.processed), paths.cache
        else:
            lists = random_lists()
            folder = random_cache(Path(name), int(lists.offsets[-1]))
        reading(folder, lists, Path(name) / "plain")


if __name__ == "__main__":
    main()
