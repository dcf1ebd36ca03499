"""Teacher signals at the decision token on disk: memory-mapped shards, addressed by example id."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import longest_first
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, fingerprint, read_json, write_json
from fisher_ld.core.progress import progress
from fisher_ld.models.scorer import Scorer, unit_rms

SHARD, LOGITS, DONE, MANIFEST = "hidden-{:05d}.npy", "logits.npy", "done.npy", "manifest.json"
AGAIN = "Run the stage cache_teacher again (dvc repro cache_teacher)."
CODE = (
    "cache.py",
    "data/lists.py",
    "data/packing.py",
    "data/prompts.py",
    "models/attention.py",
    "models/last_layer.py",
    "models/scorer.py",
)


def signal_fingerprint(teacher: Path, processed: Path, lists: Lists) -> dict[str, str]:
    """A digest for each thing that the signals depend on: the adapted teacher's weights and config, its tokenizer,
    its prompt, the training data, which of its lists are cached, and the code that turns them into signals. Raises
    UserError where a file is missing."""

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
        "data": digest(processed, ["items.parquet", "sequences.parquet", "train.parquet"]),
        "windows": hashlib.blake2b(
            b"".join(part.tobytes() for part in (lists.user, lists.start, lists.position)), digest_size=16
        ).hexdigest(),
        "code": digest(Path(__file__).parent, CODE),
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
    """Writes z as float32 (N,) and h_l / rms(h_l) as float16 (N, L, d), which no activation can overflow. A writer on
    the same `folder` after a kill goes on where the last one was; one with another fingerprint or shape raises
    UserError."""

    def __init__(
        self, folder: Path, examples: int, layers: int, width: int, shard_rows: int, fingerprint: Mapping[str, str]
    ):
        self.folder, self.rows = folder, shard_rows
        facts = {"examples": examples, "layers": layers, "width": width, "shard_rows": shard_rows, "dtype": "float16"}
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

        sizes = _shards(examples, shard_rows)
        self.hidden = [mapped(SHARD.format(i), np.float16, (n, layers, width)) for i, n in enumerate(sizes)]
        self.logits = mapped(LOGITS, np.float32, (examples,))
        self.done = mapped(DONE, np.bool_, (examples,))
        if not resumed:  # last: from here on a restart takes the files as they are
            write_json(folder / MANIFEST, {**facts, "fingerprint": dict(fingerprint)})

    def missing(self, examples: np.ndarray) -> np.ndarray:
        """(N,) bool: which of these are not written yet."""
        return ~self.done[examples]

    def write(self, examples: np.ndarray, logits: torch.Tensor, hidden_states: torch.Tensor) -> None:
        """Rows (N,), (N,) and (N, L, d), the hidden states as the model gave them. They count as done only once they
        are on disk. Raises UserError for values that are not finite, naming the layer."""
        _check_examples(examples, len(self.done))
        states = hidden_states.detach().float()  # (N, L, d)
        finite = states.square().mean(-1).isfinite()  # (N, L)
        if not finite.all():
            row, layer = (~finite).nonzero()[0].tolist()
            raise UserError(
                f"the hidden states of layer {layer + 1} are not finite (example {examples[row]}): the teacher is "
                "broken, or needs cluster.precision: fp32"
            )
        if not torch.isfinite(logits).all():
            row = int((~torch.isfinite(logits)).nonzero()[0])
            raise UserError(f"the teacher's logit of example {examples[row]} is {logits[row].item()}; adapt it again")
        unit = unit_rms(states).half().cpu().numpy()
        shards = examples // self.rows
        for shard in np.unique(shards):
            here = shards == shard
            self.hidden[shard][examples[here] % self.rows] = unit[here]
            self.hidden[shard].flush()
        self.logits[examples] = logits.detach().float().cpu().numpy()
        self.logits.flush()
        self.done[examples] = True
        self.done.flush()

    def finish(self, folder: Path) -> None:
        """Moves the cache, and what else is in the work folder (the teacher's scores), to `folder` in one step; a
        kill before it leaves the work folder whole. Raises UserError where examples are missing."""
        if not self.done.all():
            raise UserError(f"{self.folder}: {(~self.done).sum()} of {len(self.done)} examples are not cached yet")
        with atomic_path(folder) as temporary:
            shutil.copytree(self.folder, temporary, copy_function=_link, ignore=shutil.ignore_patterns(DONE))
        del self.hidden, self.logits, self.done
        shutil.rmtree(self.folder)


def fill(
    writer: CacheWriter,
    scorer: Scorer,
    lists: Lists,
    prompts: Prompts,
) -> None:
    """Caches every example of `lists` that `writer` does not have yet."""

    def is_open(window: np.ndarray) -> bool:
        return bool(writer.missing(lists.examples(window)).any())

    # grouped before the done ones are left out: a resumed run has the batches of an uninterrupted one
    groups = longest_first(lists, prompts, scorer.batch_users)
    groups = [group for group in groups if any(is_open(window) for window in group)]
    with scorer.inference():
        for group in progress(groups, "caching the teacher", unit="batch"):
            batch = scorer.pack(lists, group, prompts)
            logits, states = scorer(batch, with_hidden_states=True)
            writer.write(batch.examples.cpu().numpy(), logits, states)


class TeacherCache:
    """A finished cache; a TeacherSignals of the distillation trainer."""

    def __init__(self, folder: Path, manifest: Mapping[str, Any]):
        self.layers, self.width, self.rows = manifest["layers"], manifest["width"], manifest["shard_rows"]
        self.examples = manifest["examples"]

        def mapped(name: str) -> np.ndarray:
            if not (folder / name).is_file():
                raise UserError(f"{folder / name}: no such file; the cache is not whole, or an older one. {AGAIN}")
            return np.asarray(np.load(folder / name, mmap_mode="r"))  # a plain view slices faster than a memmap

        self.hidden = [mapped(SHARD.format(i)) for i in range(len(_shards(self.examples, self.rows)))]
        self.logits = mapped(LOGITS)

    @classmethod
    def open(cls, folder: Path, fingerprint: Mapping[str, str] | None = None) -> TeacherCache:
        """Raises UserError where the cache was made from something else than `fingerprint` says, naming the field."""
        manifest = read_json(folder / MANIFEST)
        _check(manifest, fingerprint or {}, folder, AGAIN)
        return cls(folder, manifest)

    def read(self, examples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """z (N,) float32 and h_l / rms(h_l) (N, L, d) float16. Neighbours in `examples` that are neighbours on disk
        are read as one piece. Raises UserError for an example that is not there."""
        _check_examples(examples, self.examples)
        hidden = np.empty((len(examples), self.layers, self.width), np.float16)
        shards, rows = np.divmod(examples, self.rows)
        breaks = np.flatnonzero((np.diff(examples) != 1) | (np.diff(shards) != 0)) + 1
        for piece in np.split(np.arange(len(examples)), breaks):
            if len(piece):
                begin, first = piece[0], rows[piece[0]]
                hidden[begin : begin + len(piece)] = self.hidden[shards[begin]][first : first + len(piece)]
        return self.logits[examples], hidden

    def signals(self, examples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """z (N,) and the unit-RMS hidden states (N, L, d), both float32."""
        logits, hidden = self.read(examples)
        return torch.from_numpy(logits), torch.from_numpy(hidden).float()
