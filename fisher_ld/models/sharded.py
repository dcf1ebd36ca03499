"""A model whose layers are divided among ranks (FSDP2): each keeps its rows of every matrix, and has a layer whole only
while it is computed. Embeddings, the last norm and the head stay whole on each."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

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
    return any(map(ranks.is_divided, module.parameters()))


def fill(model: nn.Module, folder: Path, device: torch.device, given: Mapping[str, torch.Tensor]) -> None:
    """Gives an `empty` model, which may be sharded since, the weights of `folder`, in float32: of each matrix a rank
    reads its own rows alone. `given` takes the place of what the files have by that name. Raises UserError where one is
    not there."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            buffers = dict(module.named_buffers())  # which `to_empty` would lose
            module.to_empty(device=device)
            for name, buffer in buffers.items():
                module.get_buffer(name).copy_(buffer)
    with _weights(folder) as read:
        for module_name, module in model.named_modules():
            for name, parameter in list(module.named_parameters(recurse=False)):
                full = f"{module_name}.{name}".lstrip(".")
                if isinstance(parameter, DTensor):
                    own, rows = parameter.to_local().detach(), parameter.shape[0]
                    begin = min(-(-rows // ranks.world()) * ranks.rank(), rows)
                    own.copy_(read(full)[begin : begin + len(own)])
                else:
                    value = (given[full] if full in given else read(full)[:]).float().to(device)
                    module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def head_rows(folder: Path, config: Any, tokens: list[int]) -> torch.Tensor:
    """The rows (n, d) of the output embedding of the causal LM in `folder`. Raises UserError where it is not found."""
    with torch.device("meta"):
        causal: Any = AutoModelForCausalLM.from_config(config)
    head = causal.get_input_embeddings() if config.tie_word_embeddings else causal.get_output_embeddings()
    name = next(f"{name}.weight" for name, module in causal.named_modules() if module is head)
    with _weights(folder) as read:
        rows = read(name)
        return torch.cat([rows[token : token + 1] for token in tokens]).float()


@contextmanager
def _weights(folder: Path) -> Iterator[Callable[[str], Any]]:
    """Within it the name of a weight gives what is on disk, of which slices are read. Raises UserError for one that is
    not there."""
    with ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, "pt")) for file in sorted(folder.glob("*.safetensors"))]
        files = {name: file for file in opened for name in file.keys()}  # noqa: SIM118 - no mapping

        def read(name: str) -> Any:
            if name not in files:
                raise UserError(f"{folder}: expected a weight {name}, its files have none; set cluster.shard: false")
            return files[name].get_slice(name)

        yield read


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
