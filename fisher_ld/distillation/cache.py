"""Teacher signals on disk by name: memory-mapped shards, addressed by example id."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import longest_first
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core import ranks
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, fingerprint, read_json, write_json
from fisher_ld.core.progress import progress
from fisher_ld.distillation.signals import SIGNALS, Sizes, StateStatistics, asked
from fisher_ld.models.scorer import Scored, Scorer

SHARD, DONE, MANIFEST = "{}-{:05d}.npy", "done.npy", "manifest.json"
STATISTICS = 4000  # examples
AGAIN = "Run the stage that wrote it again (dvc repro -f cache_teacher, or -f cache_signals@DATA-METHOD)."


def signal_fingerprint(teacher: Path, processed: Path, lists: Lists) -> dict[str, str]:
    """A digest for each thing that the signals depend on: the adapted teacher's weights and config, its tokenizer,
    its prompt, the training data, and which of its lists are cached. The code is a dependency of the stages, and in the
    key of a checkpoint. Raises UserError where a file is missing."""

    def digest(root: Path, names: Iterable[str]) -> str:
        found = fingerprint(root / name for name in sorted(names))
        text = json.dumps({str(Path(path).relative_to(root)): value for path, value in found.items()})
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    files = {str(f.relative_to(teacher)) for f in teacher.rglob("*") if f.is_file()}
    weights = {name for name in files if ".safetensors" in name} | {"config.json"}
    return {
        "teacher": digest(teacher, weights),
        "tokenizer": digest(teacher, files - weights - {"prompt.json"}),
        "prompt": digest(teacher, ["prompt.json"]),
        "data": digest(processed, ["items.parquet", "sequences.parquet", "labelled.parquet", "transfer.parquet"]),
        "windows": hashlib.blake2b(
            b"".join(part.tobytes() for part in (lists.user, lists.start, lists.position)), digest_size=16
        ).hexdigest(),
    }


def _shards(examples: int, rows: int) -> list[int]:
    return [min(rows, examples - begin) for begin in range(0, examples, rows)]


def _check(manifest: Mapping[str, Any], expected: Mapping[str, Any], folder: Path, remedy: str) -> None:
    found = {**manifest, **manifest["fingerprint"]}
    for field, value in expected.items():
        if found.get(field) != value:
            raise UserError(
                f"{folder}: the cache was made from another {field}: expected {value}, it has {found.get(field)}. "
                f"{remedy}"
            )


def _check_examples(examples: np.ndarray, count: int) -> None:
    wrong = examples[(examples < 0) | (examples >= count)]
    if len(wrong):
        raise UserError(f"the cache has the examples 0..{count - 1}, asked for {wrong[0]}. {AGAIN}")


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        shutil.copy2(source, target)


class CacheWriter:
    """Writes signals by example id. A writer on the same `folder` after a kill goes on where the last one was; one with
    another fingerprint, shape or other signals raises UserError."""

    def __init__(
        self,
        folder: Path,
        signals: Collection[str],
        examples: int,
        sizes: Sizes,
        shard_rows: int,
        fingerprint: Mapping[str, str],
    ):
        self.folder, self.rows = folder, shard_rows
        facts = {"signals": sorted(signals), "examples": examples, **sizes._asdict(), "shard_rows": shard_rows}
        resumed = (folder / MANIFEST).is_file()
        if resumed:
            remedy = f"Delete {folder} to start over."
            _check(read_json(folder / MANIFEST), {**facts, **fingerprint}, folder, remedy)
        folder.mkdir(parents=True, exist_ok=True)

        def mapped(name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
            if resumed:
                return np.lib.format.open_memmap(folder / name, mode="r+")
            array = np.lib.format.open_memmap(folder / name, mode="w+", dtype=dtype, shape=shape)
            with open(folder / name, "r+b") as stream:  # a full disk is an error here, and a SIGBUS later
                os.posix_fallocate(stream.fileno(), 0, (folder / name).stat().st_size)
            return array

        def shards(name: str) -> list[np.memmap]:
            signal = SIGNALS[name]
            counts = enumerate(_shards(examples, shard_rows))
            return [mapped(SHARD.format(name, i), signal.dtype, (n, *signal.shape(sizes))) for i, n in counts]

        self.arrays = {name: shards(name) for name in sorted(signals)}
        self.done = mapped(DONE, np.bool_, (examples,))
        if not resumed:  # last: from here on a restart takes the files as they are
            write_json(folder / MANIFEST, {**facts, "fingerprint": dict(fingerprint)})

    def missing(self, examples: np.ndarray) -> np.ndarray:
        """(N,) bool: which of these are not written yet."""
        return ~self.done[examples]

    def write(self, examples: np.ndarray, signals: Mapping[str, np.ndarray]) -> None:
        """The signals of examples (N,) by name, (N, ...) each. They count as done only once they are on disk."""
        _check_examples(examples, len(self.done))
        shards = examples // self.rows
        for name, arrays in self.arrays.items():
            values = signals[name]
            places = (..., slice(values.shape[-1])) if values.ndim > 1 else ()  # the rest stays 0: no such tokens
            for shard in np.unique(shards):
                here = shards == shard
                arrays[shard][(examples[here] % self.rows, *places)] = values[here]
                arrays[shard].flush()
        self.done[examples] = True
        self.done.flush()

    def finish(self, folder: Path) -> None:
        """Moves the cache to `folder` in one step; a kill before it leaves the work folder whole. Raises UserError
        where examples are missing."""
        if not self.done.all():
            raise UserError(f"{self.folder}: {(~self.done).sum()} of {len(self.done)} examples are not cached yet")
        with atomic_path(folder) as temporary:
            shutil.copytree(self.folder, temporary, copy_function=_link, ignore=shutil.ignore_patterns(DONE))
        del self.arrays, self.done
        shutil.rmtree(self.folder)


def fill(writer: CacheWriter | None, signals: Collection[str], scorer: Scorer, lists: Lists, prompts: Prompts) -> None:
    """Caches the signals of every example of `lists` that `writer` does not have yet. Ranks share the work; the
    leader alone has a writer, for on a shared disk two must not write one file."""
    # grouped before the done ones are left out: a resumed run has the batches of an uninterrupted one
    groups = longest_first(lists, prompts, scorer.batch_users)

    def open_groups() -> list[int]:
        assert writer is not None
        missing = [writer.missing(lists.examples(np.concatenate(group))).any() for group in groups]
        return np.flatnonzero(missing).tolist()

    def of_group(number: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        batch = scorer.pack(lists, groups[number], prompts)
        examples = batch.examples.cpu().numpy()
        return examples, as_cached(signals, asked(scorer, batch, signals), examples)

    numbers = ranks.from_leader(open_groups)
    with scorer.inference():
        for number, counts in progress(ranks.share(numbers), "caching the teacher", unit="batch"):
            examples, values = of_group(number)
            for found in ranks.to_leader((examples, values) if counts else None):
                if writer and found:
                    writer.write(*found)


def as_cached(names: Collection[str], scored: Scored, examples: np.ndarray) -> dict[str, np.ndarray]:
    """The signals of these names (N, ...) as they go to disk, from what a teacher gave for examples (N,).
    Raises UserError for values that are not finite, naming the signal and the layer."""
    return {name: _finite(name, SIGNALS[name].of(scored), examples) for name in names}


def _finite(name: str, values: torch.Tensor, examples: np.ndarray) -> np.ndarray:
    """A signal (N, ...) as it goes to disk."""
    with np.errstate(over="ignore"):  # said below
        found = values.detach().float().cpu().numpy().astype(SIGNALS[name].dtype)
    if not np.isfinite(found).all():
        where = np.argwhere(~np.isfinite(found))[0]
        layer = f", layer {where[1] + 1}" if len(where) > 1 else ""
        raise UserError(
            f"the teacher's {name} of example {examples[where[0]]}{layer} are not finite: it is broken (adapt it "
            "again), or needs teacher.precision: fp32"
        )
    return found


class TeacherCache:
    """A finished cache; a TeacherSignals of the trainer."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any], names: Collection[str]):
        self.layers, self.width, self.rows = manifest["layers"], manifest["width"], manifest["shard_rows"]
        self.examples = manifest["examples"]
        if lacking := set(names) - set(manifest["signals"]):
            raise UserError(
                f"{folder}: expected signals {', '.join(sorted(names))}, it lacks {', '.join(sorted(lacking))}. {AGAIN}"
            )

        def mapped(name: str) -> np.ndarray:
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: no such file; the cache is not whole, or an older one. {AGAIN}")
            return np.asarray(np.load(folder / name, mmap_mode="r"))  # a plain view slices faster than a memmap

        count = len(_shards(self.examples, self.rows))
        self.arrays = {name: [mapped(SHARD.format(name, i)) for i in range(count)] for name in names}

    @classmethod
    def open(cls, folder: Path, names: Collection[str], fingerprint: Mapping[str, str] | None = None) -> TeacherCache:
        """The signals of these names. Raises UserError where the cache lacks one, or was made from something else than
        `fingerprint` says, naming the field."""
        manifest = read_json(folder / MANIFEST)
        _check(manifest, fingerprint or {}, folder, AGAIN)
        return cls(folder, manifest, names)

    def joined(self, other: TeacherCache) -> TeacherCache:
        """Itself, with the signals of another cache of the same examples."""
        self.arrays |= other.arrays
        return self

    def read(self, examples: np.ndarray, name: str) -> np.ndarray:
        """A signal of examples (N,), (N, *shape) as on disk. Neighbours in `examples` that are neighbours on disk are
        read as one piece. Raises UserError for an example that is not there."""
        _check_examples(examples, self.examples)
        arrays = self.arrays[name]
        values = np.empty((len(examples), *arrays[0].shape[1:]), arrays[0].dtype)
        shards, rows = np.divmod(examples, self.rows)
        breaks = np.flatnonzero((np.diff(examples) != 1) | (np.diff(shards) != 0)) + 1
        for piece in np.split(np.arange(len(examples)), breaks):
            if len(piece):
                begin, first = piece[0], rows[piece[0]]
                values[begin : begin + len(piece)] = arrays[shards[begin]][first : first + len(piece)]
        return values

    def statistics(self) -> StateStatistics:
        """Of the states of a seeded sample of examples."""
        return StateStatistics.of(self.sample("states", STATISTICS, seed=0))

    def sample(self, name: str, count: int, seed: int) -> torch.Tensor:
        """A signal of at most `count` seeded examples: (n, *shape)."""
        return self.signals(np.random.default_rng(seed).permutation(self.examples)[:count], [name])[name]

    def signals(self, examples: np.ndarray, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The signals of these names, each (N, *shape) in float32."""
        return {name: torch.from_numpy(self.read(examples, name)).float() for name in names}
