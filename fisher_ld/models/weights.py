"""A model's weights, read from disk one by one, each to where it stays and as it stays there."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from fisher_ld.core import ranks
from fisher_ld.core.compute import GIB, Compute
from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import say


def empty(config: Any) -> PreTrainedModel:
    """A classifier whose weights take no memory yet."""
    with init_empty_weights(include_buffers=False):
        return AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)


def matrices(body: nn.Module) -> list[nn.Module]:
    """The modules whose weights autocast takes in bf16."""
    return [module for module in body.modules() if isinstance(module, nn.Linear | Conv1D)]


def narrow(model: PreTrainedModel) -> None:
    """Puts its matrices, which are not trained, in bf16, in place. Norms, embeddings and the head stay as they are."""
    for module in matrices(model.base_model):
        module.weight = nn.Parameter(module.get_parameter("weight").detach().bfloat16(), requires_grad=False)


def are_named(model: nn.Module, folder: Path, given: Collection[str] = ()) -> bool:
    """Whether the files of `folder` have each weight by the model's own name, but for those that are given."""
    known = {*_files(folder), *given}
    return all(name in known for name, _ in model.named_parameters())


def check_room(model: nn.Module, compute: Compute) -> None:
    """Says what the weights of a large `empty` model take of what is free; sharded, those of this rank. Raises
    UserError where they do not fit."""
    own = [p.to_local() if isinstance(p, DTensor) else p for p in model.parameters()]
    need, free = sum(p.numel() * p.element_size() for p in own) / GIB, compute.free()
    if need > 1 and ranks.leader():
        say(f"weights: about {need:.1f} GiB of {free:.1f} in each process")
    if need > free:
        raise UserError(
            f"the weights take {need:.1f} GiB in each process, {free:.1f} are free: divide the layers among more "
            "processes (cluster.shard: true, processes, nodes), ask for more memory, or take a smaller teacher"
        )


def fill(
    model: nn.Module,
    folder: Path,
    device: torch.device,
    given: Mapping[str, torch.Tensor] = MappingProxyType({}),
    as_stored: bool = False,
) -> None:
    """Gives an `empty` model, which may be sharded since, the weights of `folder`, each in the precision that it has
    there already, or `as_stored`: of each matrix a rank reads its own rows alone. `given` takes the place of what the
    files have by that name. On the CPU what is not converted stays on disk until it is used. Raises UserError where a
    weight is not there."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            buffers = dict(module.named_buffers())  # which `to_empty` would lose
            module.to_empty(device=device)
            for name, buffer in buffers.items():
                module.get_buffer(name).copy_(buffer)
    read = _reader(folder)
    for module_name, module in model.named_modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            full = f"{module_name}.{name}".lstrip(".")
            if isinstance(parameter, DTensor):
                own, rows = parameter.to_local().detach(), parameter.shape[0]
                begin = min(-(-rows // ranks.world()) * ranks.rank(), rows)
                own.copy_(read(full)[begin : begin + len(own)])
            else:
                value = given[full] if full in given else read(full)[:]
                value = value.to(device, value.dtype if as_stored else parameter.dtype)
                module.register_parameter(name, nn.Parameter(value, requires_grad=False))


def head_rows(folder: Path, config: Any, tokens: list[int]) -> torch.Tensor:
    """The rows (n, d) of the output embedding of the causal LM in `folder`. Raises UserError where it is not found."""
    with torch.device("meta"):
        causal: Any = AutoModelForCausalLM.from_config(config)
    head = causal.get_input_embeddings() if config.tie_word_embeddings else causal.get_output_embeddings()
    name = next(f"{name}.weight" for name, module in causal.named_modules() if module is head)
    rows = _reader(folder)(name)
    return torch.cat([rows[token : token + 1] for token in tokens]).float()


def _files(folder: Path) -> dict[str, Path]:
    """The file of each weight."""
    found = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            found |= dict.fromkeys(opened.keys(), file)
    return found


def _reader(folder: Path) -> Callable[[str], Any]:
    """The name of a weight -> what is on disk, of which slices are read. Raises UserError for one that is not there."""
    files = _files(folder)

    def read(name: str) -> Any:
        if name not in files:
            raise UserError(f"{folder}: expected a weight {name}, its files have none; set cluster.shard: false")
        return safe_open(files[name], "pt").get_slice(name)  # opened anew, or the process would hold all it has read

    return read
