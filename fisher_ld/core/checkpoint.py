"""Checkpoints that a killed stage resumes from. No pickle: safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fisher_ld.core import ranks
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, plain
from fisher_ld.core.locks import Lock, still_running, work_root
from fisher_ld.core.progress import say

if TYPE_CHECKING:
    import torch


def rng_state() -> dict[str, Any]:
    """State of the global generators of Python, NumPy and torch (CPU and GPU)."""
    import torch

    cuda = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    numpy_state = np.random.get_state(legacy=False)
    return {"python": random.getstate(), "numpy": numpy_state, "torch": torch.get_rng_state(), "cuda": cuda}


def restore_rng(state: Mapping[str, Any]) -> None:
    import torch

    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"][0])


def _pack(value: Any, tensors: dict[str, torch.Tensor], names: dict[tuple, str]) -> Any:
    """A JSON tree of `value`, its tensors moved to `tensors`. Containers are tagged, so that integer keys (as in an
    optimiser's state) and tuples come back as they were."""
    import torch

    if isinstance(value, Mapping):
        return {"dict": [[_pack(k, tensors, names), _pack(v, tensors, names)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_pack(v, tensors, names) for v in value]}
    if isinstance(value, np.ndarray):
        return {"array": _pack(torch.from_numpy(value), tensors, names)["tensor"]}
    if isinstance(value, torch.Tensor):
        if ranks.is_divided(value):  # whole on the leader alone, one after the other
            found = ranks.whole(value)
            name = f"t{len(names)}"
            names[(name,)] = name
            if ranks.leader():
                tensors[name] = found.detach().to("cpu", copy=True).contiguous()
            return {"tensor": name}
        value = value.detach()
        key = (value.data_ptr(), value.shape, value.stride(), value.dtype) if value.numel() else (id(value),)
        if key not in names:  # tied weights are stored once
            names[key] = f"t{len(names)}"
            whole = value.untyped_storage().nbytes() == value.nbytes
            tensors[names[key]] = value.contiguous() if whole else value.clone(memory_format=torch.contiguous_format)
        return {"tensor": names[key]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"a checkpoint holds tensors, arrays, numbers, strings and containers, not {type(value).__name__}")


def _unpack(tree: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "array":
        return tensors[content].numpy()
    if kind == "dict":
        return {_unpack(k, tensors): _unpack(v, tensors) for k, v in content}
    items = [_unpack(v, tensors) for v in content]
    return tuple(items) if kind == "tuple" else items


class Checkpoint:
    """The newest state of a stage, outside DVC's outputs (DVC deletes those before a stage runs), in
    $DVC_ROOT/work/STAGE/KEY. KEY is a hash of `key_parts` (params, the fingerprints of inputs and of the code
    that runs), so that a run with other params, inputs or code never resumes from here. Holds a lock until the process
    ends. A process with the same key and folder raises UserError; one in another folder (a parallel experiment) is
    let be, and this one keeps its own checkpoint beside. Survives a kill at any moment, not a power cut. Ranks have one
    together."""

    def __init__(self, stage: str, key_parts: Mapping[str, Any], root: str | Path | None = None):
        text = json.dumps(key_parts, sort_keys=True, default=plain)
        key = hashlib.sha256(text.encode()).hexdigest()[:16]
        folder = Path(root or work_root()) / "work" / stage
        self.folder = ranks.from_leader(lambda: self._take(folder, stage, key))

    def _take(self, folder: Path, stage: str, key: str) -> Path:
        for name in (key, *(f"{key}-{i}" for i in range(1, 100))):
            self.lock = Lock(folder / f"{name}.lock")
            holder = self.lock.take()
            if holder is None:
                return folder / name
            if holder["folder"] == str(Path.cwd()):
                raise still_running(stage, holder)
        raise UserError(f"{folder}: 100 processes hold {key}; wait until some of them end")

    def _newest(self) -> Path | None:
        return max(self.folder.glob("step-*"), default=None)

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Replaces the last state. `state`: nested dicts, lists and tuples of tensors, arrays, numbers, strings, for
        example state_dict() of model, optimiser and schedule. The global generators' state is added."""
        from safetensors.torch import save_file

        tensors: dict[str, torch.Tensor] = {}
        tree = _pack({"state": state, "rng": rng_state()}, tensors, {})
        if not ranks.leader():
            return
        for half in self.folder.glob(".new-*"):  # of a save that a kill cut off
            shutil.rmtree(half)
        with atomic_path(self.folder / f"step-{step:012d}") as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / "tensors.safetensors")
            (temporary / "state.json").write_text(json.dumps({"step": step, "tree": tree}))
        for old in sorted(self.folder.glob("step-*"))[:-1]:
            shutil.rmtree(old)

    def load(self) -> tuple[int, dict[str, Any]] | None:
        """(step, state) as last saved, or None. Also sets the global generators: load when everything else is
        built, last before the loop."""
        from safetensors.torch import load_file

        newest = ranks.from_leader(self._newest)
        if newest is None:
            return None
        saved = json.loads((newest / "state.json").read_text())
        content = _unpack(saved["tree"], load_file(newest / "tensors.safetensors"))
        restore_rng(content["rng"])
        if ranks.leader():
            say(f"resuming from {newest}")
        return saved["step"], content["state"]

    def done(self) -> None:
        """The stage's outputs are written: removes the checkpoint."""
        if not ranks.leader():
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self.lock.release(remove=True)
