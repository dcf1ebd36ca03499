"""Processes of one stage that work together (torch.distributed). Alone, every function here is the identity.

All ranks run the same code; the first, the leader, alone writes files and tells. A launcher says who is who by the
environment variables of torchrun.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

if TYPE_CHECKING:
    import torch

T = TypeVar("T")
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
PATIENCE = timedelta(hours=2)  # of ranks that wait for another, whose death a launcher tells sooner


def rank() -> int:
    return int(os.environ.get("RANK", 0))


def world() -> int:
    return int(os.environ.get("WORLD_SIZE", 1))


def leader() -> bool:
    return rank() == 0


def on_this_node() -> int:
    """How many ranks share this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", 1))


def meet(device: str) -> torch.device:
    """The device of this rank, once all ranks have come together."""
    import torch
    from torch import distributed

    if world() == 1:
        return torch.device(device)
    own = torch.device(device, int(os.environ["LOCAL_RANK"])) if device == "cuda" else torch.device(device)
    if device == "cuda":
        torch.cuda.set_device(own)
    if not distributed.is_initialized():
        distributed.init_process_group("cpu:gloo,cuda:nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    return own


def part() -> None:
    """The end of what ranks do together."""
    if world() > 1:
        from torch import distributed

        if distributed.is_initialized():
            distributed.barrier()  # none leaves while the leader still writes
            distributed.destroy_process_group()


def share(items: Sequence[T]) -> list[tuple[T, bool]]:
    """This rank's of `items`, which cost about as much as their neighbours, and whether each counts. All ranks have as
    many: a model that they divide among themselves computes nothing where one of them is missing."""
    own = [(item, True) for item in items[rank() :: world()]]
    short = len(own) < -(-len(items) // world())
    return [*own, (items[-1], False)] if short else own


def gather(value: T) -> list[T]:
    """The value of every rank, in their order, on all of them."""
    if world() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world()
    distributed.all_gather_object(values, value)
    return values


def to_leader(value: T) -> list[T]:
    """The value of every rank, in their order, on the leader; on the others nothing."""
    if world() == 1:
        return [value]
    from torch import distributed

    values: list[Any] = [None] * world() if leader() else []
    distributed.gather_object(value, values if leader() else None)
    return values


def together(compute: Callable[[], T]) -> list[T]:
    """What each rank computes, on all of them. An error of one is raised by all: the others would wait for it."""
    value: T | Exception
    try:
        value = compute()
    except Exception as error:
        if world() == 1:
            raise
        value = error
    values = gather(value)
    for found in values:
        if isinstance(found, Exception):
            raise found
    return values  # pyright: ignore[reportReturnType]


def from_leader(compute: Callable[[], T]) -> T:
    """What the leader computes, on all ranks, or its error."""
    return together(lambda: compute() if leader() else None)[0]  # pyright: ignore[reportReturnType]


def total(values: np.ndarray) -> np.ndarray:
    """The sum over ranks."""
    return np.sum(gather(values), axis=0) if world() > 1 else values


def is_divided(tensor: torch.Tensor) -> bool:
    """Whether each rank has a part of it (a DTensor)."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Any) -> torch.Tensor:
    """All of a tensor that may be divided among ranks; all of them have to ask."""
    return tensor.full_tensor() if is_divided(tensor) else tensor


def average_gradients(parameters: Sequence[torch.Tensor]) -> None:
    """Replaces every gradient by its mean over ranks, all of them in one message; those of divided ones are already."""
    if world() == 1:
        return
    import torch
    from torch import distributed

    gradients = [p.grad for p in parameters if p.grad is not None and not is_divided(p)]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    distributed.all_reduce(flat)
    flat /= world()
    for gradient, mean in zip(gradients, flat.split([gradient.numel() for gradient in gradients]), strict=True):
        gradient.copy_(mean.view_as(gradient))
