"""Device, threads and seeds; and the one place to import files, checkpoints and progress from."""

from __future__ import annotations

import os
import random
from typing import TYPE_CHECKING

import numpy as np

from fisher_ld.checkpoint import Checkpoint, Lock, restore_rng, rng_state, still_running, work_root
from fisher_ld.files import (
    UserError,
    atomic_path,
    disk_full_message,
    fingerprint,
    is_disk_full,
    read_json,
    read_yaml,
    write_json,
)
from fisher_ld.progress import Progress, progress

if TYPE_CHECKING:
    import torch

    from fisher_ld.params import Cluster

__all__ = [
    "Checkpoint",
    "Lock",
    "Progress",
    "UserError",
    "atomic_path",
    "disk_full_message",
    "fingerprint",
    "is_disk_full",
    "progress",
    "read_json",
    "read_yaml",
    "restore_rng",
    "rng_state",
    "setup",
    "still_running",
    "work_root",
    "write_json",
]


def setup(cluster: Cluster, seed: int) -> torch.device:
    """Sets threads, seeds and deterministic kernels; returns the device. A device or precision that is not to be had
    raises UserError. `threads: null` takes $OMP_NUM_THREADS if set, else every core this process may use."""
    import torch

    if cluster.device == "cuda":
        if not torch.cuda.is_available():
            raise UserError("cluster.device: cuda was asked for, but torch sees no GPU here; set cluster.device: cpu")
        if cluster.precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
            name = torch.cuda.get_device_name()
            raise UserError(f"cluster.precision: {name} has no bf16; set cluster.precision: fp32")
    default_threads = int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))
    torch.set_num_threads(cluster.threads or default_threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    torch.use_deterministic_algorithms(True)
    # filling fresh memory costs time and hides nothing we rely on; torch's stubs do not know the attribute
    torch.utils.deterministic.fill_uninitialized_memory = False  # pyright: ignore[reportAttributeAccessIssue]
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
    return torch.device(cluster.device)
