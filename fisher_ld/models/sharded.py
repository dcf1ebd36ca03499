"""A model whose layers are divided among ranks (FSDP2): each keeps its rows of every matrix, and has a layer whole only
while it is computed. Embeddings, the last norm and the head stay whole on each."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from fisher_ld.core import ranks
from fisher_ld.core.compute import Compute


def shard(layers: Iterable[nn.Module], compute: Compute) -> None:
    """Divides each layer among all ranks."""
    mesh = init_device_mesh(compute.device.type, (ranks.world(),))
    inside = MixedPrecisionPolicy(torch.bfloat16 if compute.bf16 else None, torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=inside)


def is_sharded(module: nn.Module) -> bool:
    return any(map(ranks.is_divided, module.parameters()))


def divided_as(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    """A tensor that is whole on every rank, divided as `parameter` is, if it is."""
    if not isinstance(parameter, DTensor) or isinstance(value, DTensor) or value.shape != parameter.shape:
        return value
    return distribute_tensor(value, parameter.device_mesh, parameter.placements, src_data_rank=None)


def whole_state(module: nn.Module) -> dict[str, torch.Tensor] | None:
    """The weights of a sharded module on the leader, in main memory, one after the other; None if it is not sharded."""
    if not is_sharded(module):
        return None
    state = {}
    for name, value in module.state_dict().items():
        found = ranks.whole(value)
        if ranks.leader():
            state[name] = found.cpu()
    distributed.barrier()
    return state
