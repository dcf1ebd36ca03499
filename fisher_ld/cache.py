"""Teacher signals at the decision token on disk: memory-mapped shards, addressed by example id."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch

from fisher_ld.data.lists import Lists
from fisher_ld.data.packing import pack
from fisher_ld.data.prompts import Prompts
from fisher_ld.models.scorer import Scorer, unit_rms
from fisher_ld.runtime import UserError, progress, read_json, write_json

SHARD, LOGITS, DONE, MANIFEST = "hidden-{:05d}.npy", "logits.npy", "done.npy", "manifest.json"


def _shards(examples: int, rows: int) -> list[int]:
    return [min(rows, examples - begin) for begin in range(0, examples, rows)]


def _check(found: Mapping[str, str], expected: Mapping[str, str], folder: Path) -> None:
    for field, value in expected.items():
        if found.get(field) != value:
            raise UserError(
                f"{folder}: the cache was made from another {field}: expected {value}, it has {found.get(field)}. "
                "Run the stage cache_teacher again (dvc repro cache_teacher)."
            )


class CacheWriter:
    """Writes h_l / rms(h_l) as float16 (N, L, d), which no activation can overflow and which is all that the losses
    read, and z as float32 (N,). A writer on the same `folder` after a kill goes on where the last one was."""

    def __init__(
        self, folder: Path, examples: int, layers: int, width: int, shard_rows: int, fingerprint: Mapping[str, str]
    ):
        self.folder, self.rows = folder, shard_rows
        facts = {"examples": examples, "layers": layers, "width": width, "shard_rows": shard_rows, "dtype": "float16"}
        self.manifest = {**facts, "fingerprint": dict(fingerprint)}
        sizes = _shards(examples, shard_rows)
        resumed = (folder / MANIFEST).is_file()
        if resumed:
            _check(read_json(folder / MANIFEST)["fingerprint"], fingerprint, folder)
        folder.mkdir(parents=True, exist_ok=True)

        def mapped(name: str, dtype: type, shape: tuple[int, ...]) -> np.memmap:
            mode = "r+" if resumed else "w+"
            return np.lib.format.open_memmap(folder / name, mode=mode, dtype=dtype, shape=None if resumed else shape)

        self.hidden = [mapped(SHARD.format(i), np.float16, (n, layers, width)) for i, n in enumerate(sizes)]
        self.logits = mapped(LOGITS, np.float32, (examples,))
        self.done = mapped(DONE, np.bool_, (examples,))
        write_json(folder / MANIFEST, self.manifest)

    def write(self, examples: np.ndarray, logits: np.ndarray, hidden_states: np.ndarray) -> None:
        """Rows (N,), (N,), (N, L, d); they count as done only once they are on disk."""
        for shard in np.unique(examples // self.rows):
            here = examples // self.rows == shard
            self.hidden[shard][examples[here] % self.rows] = hidden_states[here]
            self.hidden[shard].flush()
        self.logits[examples] = logits
        self.logits.flush()
        self.done[examples] = True
        self.done.flush()

    def finish(self, folder: Path) -> None:
        """Moves the whole cache to `folder`. Raises UserError where examples are missing."""
        if not self.done.all():
            raise UserError(f"{self.folder}: {(~self.done).sum()} of {len(self.done)} examples are not cached yet")
        del self.hidden, self.logits, self.done
        (self.folder / DONE).unlink()
        shutil.move(self.folder, folder)


@torch.inference_mode()
def fill(
    writer: CacheWriter,
    scorer: Scorer,
    lists: Lists,
    sequences: list[np.ndarray],
    prompts: Prompts,
    batch_users: int,
    device: torch.device,
) -> None:
    """Caches every example of `lists` that `writer` does not have yet."""
    windows = sorted(lists.windows(), key=lambda w: -sum(len(lists.candidates[i]) for i in w))
    open_windows = [
        w for w in windows if not all(writer.done[lists.offsets[i] : lists.offsets[i + 1]].all() for i in w)
    ]
    groups = [open_windows[i : i + batch_users] for i in range(0, len(open_windows), batch_users)]
    for group in progress(groups, "caching the teacher", unit="batch"):
        batch = pack(lists, group, sequences, prompts, scorer.context()).to(device)
        logits, states = scorer(batch, with_hidden_states=True)
        writer.write(batch.examples.cpu().numpy(), logits.cpu().numpy(), unit_rms(states).half().cpu().numpy())


class TeacherCache:
    """A finished cache; a TeacherSignals of the distillation trainer."""

    def __init__(self, folder: Path, manifest: dict):
        self.layers, self.width, self.rows = manifest["layers"], manifest["width"], manifest["shard_rows"]
        self.examples = manifest["examples"]
        count = len(_shards(self.examples, self.rows))
        self.hidden = [np.load(folder / SHARD.format(i), mmap_mode="r") for i in range(count)]
        self.logits = np.load(folder / LOGITS, mmap_mode="r")

    @classmethod
    def open(cls, folder: Path, fingerprint: Mapping[str, str] | None = None) -> TeacherCache:
        """Raises UserError where the cache was made from something else than `fingerprint` says, naming the field."""
        manifest = read_json(folder / MANIFEST)
        _check(manifest["fingerprint"], fingerprint or {}, folder)
        return cls(folder, manifest)

    def signals(self, examples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """z (N,) and the unit-RMS hidden states (N, L, d), both float32."""
        if len(examples) and not 0 <= examples.min() <= examples.max() < self.examples:
            raise UserError(f"the cache has the examples 0..{self.examples - 1}, asked for {examples.max()}")
        hidden = np.empty((len(examples), self.layers, self.width), np.float16)
        for shard in np.unique(examples // self.rows):
            here = examples // self.rows == shard
            hidden[here] = self.hidden[shard][examples[here] % self.rows]
        return torch.from_numpy(self.logits[examples]), torch.from_numpy(hidden).float()
