"""Device, precision, threads and seeds."""

from __future__ import annotations

import ctypes
import os
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import psutil

from fisher_ld.core import ranks
from fisher_ld.core.errors import UserError

if TYPE_CHECKING:
    import torch

    from fisher_ld.config.params import Place


GIB = 2**30


@dataclass(frozen=True)
class Compute:
    """Where models run, whether their linear layers and attention do so in bf16 (torch.autocast), and how many packed
    rows they score at once."""

    device: torch.device
    bf16: bool
    batch_users: int = 1
    shard: bool = False  # whether ranks divide the teacher among themselves
    checkpointing: bool = False  # whether activations are computed again for the backward pass, and not kept
    pieces: int = 1  # of a rank's share of a training step, one after the other

    def __str__(self) -> str:
        """What a result depends on, so that a checkpoint's key has it."""
        return f"{self.device.type} in {'bf16' if self.bf16 else 'fp32'}"

    def free(self) -> float:
        """GiB that this process may take."""
        if self.device.type == "cuda":
            import torch

            return torch.cuda.mem_get_info(self.device)[0] / GIB
        limits = [psutil.virtual_memory().available, *_of_control_groups()]
        if limit := os.environ.get("SLURM_MEM_PER_NODE"):
            limits.append(int(limit) * 2**20)
        return min(limits) / GIB / ranks.on_this_node()


def _of_control_groups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> Iterator[int]:
    """Bytes that each group of this process has left (cgroup v2): of a container, or of a job. What files take in the
    cache is given back when memory is asked for."""
    lines = own.read_text().splitlines() if own.exists() else []
    for line in lines:
        place = root / line.removeprefix("0::").lstrip("/")
        for folder in (place, *place.parents) if line.startswith("0::") else ():
            limit, used, parts = (folder / f"memory.{name}" for name in ("max", "current", "stat"))
            if limit.exists() and used.exists() and (most := limit.read_text().strip()).isdecimal():
                cached = re.search(r"^inactive_file (\d+)$", parts.read_text(), re.M) if parts.exists() else None
                yield int(most) - int(used.read_text()) + int(cached[1] if cached else 0)


def has_bf16(device: str) -> bool:
    """Whether the hardware itself multiplies bf16; emulation is several times slower than fp32."""
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    able = torch.cpu.get_capabilities()
    return any(able.get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))


def keep_freed_memory() -> None:
    """Tells glibc not to hand freed memory back to the system: a forward pass frees and takes the same memory in every
    layer, and to have its pages zeroed each time doubles the time of scoring. Where the C library is another, nothing
    is done."""
    if mallopt := getattr(ctypes.CDLL(None), "mallopt", None):
        trim_threshold, mmap_max = -1, -4  # malloc.h
        mallopt(trim_threshold, 2**31 - 1)
        mallopt(mmap_max, 0)


def usable_threads(threads: int | None) -> int:
    """None is $OMP_NUM_THREADS if set, else every core that this process may use. Raises UserError."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a number for each level of nesting
    if threads or not asked:
        return threads or len(os.sched_getaffinity(0))
    if not asked.isdecimal() or int(asked) < 1:
        raise UserError(
            f"OMP_NUM_THREADS: expected a number from 1 on, got {asked!r}; unset it, or set cluster.threads"
        )
    return int(asked)


def setup(cluster: Place, precision: str, seed: int) -> Compute:
    """Sets threads, memory, seeds and deterministic kernels; returns where to compute. `precision`: fp32, bf16
    (autocast), or auto, which is bf16 where the hardware computes it. A device or precision that is
    not to be had raises UserError."""
    import torch

    if cluster.device == "cuda" and not torch.cuda.is_available():
        raise UserError("cluster.device: cuda was asked for, but torch sees no GPU here; set cluster.device: cpu")
    bf16 = precision != "fp32" and has_bf16(cluster.device)
    if precision == "bf16" and not bf16:
        raise UserError("precision: this hardware does not compute in bf16; set it to fp32, or to auto")
    torch.set_num_threads(usable_threads(cluster.threads))
    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    # filling fresh memory costs time and hides nothing we rely on; torch's stubs do not know the attribute
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    device, shard = ranks.meet(cluster.device), cluster.shard and ranks.world() > 1
    compute = Compute(device, bf16, cluster.batch_users, shard, cluster.checkpointing, cluster.pieces)
    processes = f"{ranks.world()} processes, each " if ranks.world() > 1 else ""
    print(f"computing on {compute} with {processes}{torch.get_num_threads()} threads")
    return compute
