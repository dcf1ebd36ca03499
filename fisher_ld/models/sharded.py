"""A model whose layers are divided among ranks (FSDP2): each keeps its rows of every matrix, and has a layer whole only
while it is computed. Embeddings, the last norm and the head stay whole on each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from fisher_ld.core import ranks
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError


def empty(config: Any) -> PreTrainedModel:
    """A classifier whose weights take no memory yet."""
    with init_empty_weights(include_buffers=False):
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def shard(layers: Iterable[nn.Module], compute: Compute) -> None:
    """Divides each layer among all ranks."""
    mesh = init_device_mesh(compute.device.type, (ranks.world(),))
    inside = MixedPrecisionPolicy(torch.bfloat16 if compute.bf16 else None, torch.float32, cast_forward_inputs=False)
    for layer in layers:
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, mp_policy=inside)


def is_sharded(module: nn.Module) -> bool:
    return any(isinstance(parameter, DTensor) for parameter in module.parameters())


def fill(model: nn.Module, folder: Path, device: torch.device, given: Mapping[str, torch.Tensor]) -> None:
    """Gives an `empty` model, which may be sharded since, the weights of `folder`, in float32: of each matrix a rank
    reads its own rows alone. `given` takes the place of what the files have by that name. Raises UserError where one is
    not there."""
    files = {name: file for file in sorted(folder.glob("*.safetensors")) for name in _names(file)}
    for module in model.modules():
        if isinstance(module, FSDPModule):
            buffers = dict(module.named_buffers())  # which `to_empty` would lose
            module.to_empty(device=device)
            for name, buffer in buffers.items():
                module.get_buffer(name).copy_(buffer)
    for module_name, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{module_name}.{name}".lstrip(".")
            if full not in given and full not in files:
                raise UserError(f"{folder}: expected a weight {full}, its files have none; set cluster.shard: false")
            if isinstance(parameter, DTensor):
                begin, size = _own_rows(parameter)
                parameter.to_local().detach().copy_(_read(files[full], full)[begin : begin + size])
            else:
                value = (given[full] if full in given else _read(files[full], full)[:]).float().to(device)
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def head_rows(folder: Path, config: Any, tokens: list[int]) -> torch.Tensor:
    """The rows (n, d) of the output embedding of the causal LM in `folder`. Raises UserError where it is not found."""
    with torch.device("meta"):
        causal: Any = AutoModelForCausalLM.from_config(config)
    head = causal.get_input_embeddings() if config.tie_word_embeddings else causal.get_output_embeddings()
    name = next(f"{name}.weight" for name, module in causal.named_modules() if module is head)
    for file in sorted(folder.glob("*.safetensors")):
        if name in _names(file):
            rows = _read(file, name)
            return torch.cat([rows[token : token + 1] for token in tokens]).float()
    raise UserError(f"{folder}: expected a weight {name}, its files have none; set cluster.shard: false")


def _names(file: Path) -> list[str]:
    with safe_open(file, "pt") as opened:
        return list(opened.keys())


def _read(file: Path, name: str) -> Any:
    """A weight on disk, of which slices are read."""
    return safe_open(file, "pt").__enter__().get_slice(name)


def _own_rows(parameter: DTensor) -> tuple[int, int]:
    each = -(-parameter.shape[0] // ranks.world())
    begin = min(each * ranks.rank(), parameter.shape[0])
    return begin, min(each, parameter.shape[0] - begin)


def whole(value: torch.Tensor) -> torch.Tensor:
    """All of a tensor that is divided among ranks; all of them have to ask."""
    return cast("torch.Tensor", value.full_tensor()) if isinstance(value, DTensor) else value


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
        found = whole(value)
        if ranks.leader():
            state[name] = found.cpu()
    distributed.barrier()
    return state
