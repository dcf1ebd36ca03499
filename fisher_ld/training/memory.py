"""What adaptation takes in memory, told before a teacher is loaded. Nothing is guessed but the program itself: weights
are counted, and what a layer keeps for the backward pass is seen in one of random weights."""

from __future__ import annotations

import copy
import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import PackedBatch, pack, parts, row_tokens
from fisher_ld.batches.prompts import Prompts
from fisher_ld.config.params import Adapt
from fisher_ld.core import ranks
from fisher_ld.core.compute import GIB, Compute
from fisher_ld.core.errors import UserError
from fisher_ld.models import weights
from fisher_ld.models.scorer import Scorer, with_layers
from fisher_ld.models.together import division

PROGRAM = 0.75  # GiB, of Python and its libraries with their buffers


@dataclass(frozen=True)
class Need:
    """Bytes of one process."""

    weights: float
    training: float  # gradients, AdamW's two moments, the best weights so far and those of a checkpoint, 4 bytes each
    activations: float  # what all layers keep for the backward pass of the largest batch, or of a piece of it

    def gib(self) -> float:
        return (self.weights + self.training + self.activations) / GIB + PROGRAM

    def __str__(self) -> str:
        named = {"weights": self.weights, "training": self.training, "activations": self.activations}
        return ", ".join(f"{name} {value / GIB:.2f}" for name, value in named.items())


def needed(config: Any, lists: Lists, prompts: Prompts, settings: Adapt, compute: Compute) -> Need:
    """Of the adaptation of a model of this config on the windows of `lists`, in one of `ranks.world()` processes."""
    model, windows = weights.empty(config), lists.windows()
    frozen = settings.method == "lora"
    if in_bf16 := frozen and compute.bf16:
        weights.narrow(model)
    windows.sort(key=lambda window: row_tokens(window, lists, prompts), reverse=True)
    largest = windows[: settings.batch_users]
    sharing, pieces = division(sum(map(len, largest)), compute.pieces)
    batch = pack(lists, parts(lists, largest, sharing * pieces)[0], prompts, sys.maxsize)
    in_layers = [p for name, p in model.named_parameters() if _in_layer(name)]
    layers, layer_bytes = sum(p.numel() for p in in_layers), sum(map(_bytes, in_layers))
    others = sum(map(_bytes, model.parameters())) - layer_bytes
    each = layers / config.num_hidden_layers
    divided = ranks.world() if compute.shard else 1
    trained = layers / divided + len(prompts.tokens()) * config.hidden_size
    if frozen:
        linear = [p for name, p in model.named_parameters() if _in_layer(name) and p.ndim == 2]
        trained = settings.lora_rank * sum(sum(p.shape) for p in linear)
    collected = 4 * 2 * each if divided > 1 else 0  # a layer that is computed, and the next
    kept = kept_by_a_layer(config, batch, compute, frozen)
    if divided > 1 and compute.bf16 and not in_bf16:  # a layer's weights in bf16 are given up after its pass
        kept -= 2 * each
    states = 4 * batch.input_ids.numel() * config.hidden_size  # what goes into a layer
    count = config.num_hidden_layers
    activations = count * states + kept if compute.checkpointing else count * kept
    return Need(layer_bytes / divided + others + collected, 5 * 4 * trained, activations)


def _bytes(parameter: torch.Tensor) -> int:
    return parameter.numel() * parameter.element_size()


def _in_layer(name: str) -> bool:
    return any(part.isdecimal() for part in name.split("."))


def kept_by_a_layer(config: Any, batch: PackedBatch, compute: Compute, frozen: bool) -> int:
    """Bytes that one layer keeps for the backward pass of `batch`, beside its weights."""
    small = with_layers(config, 1, words=4)
    scorer = Scorer(AutoModelForSequenceClassification.from_config(small, dtype=torch.float32)).on(compute)
    shared = {id(p): p for p in scorer.layers.parameters()}
    scorer.layers.append(copy.deepcopy(scorer.layers[0], shared))  # a second, for the last is narrow
    scorer.model.config.num_hidden_layers = 2
    if getattr(small, "layer_types", None):
        scorer.model.config.layer_types = small.layer_types * 2
    scorer.layers.requires_grad_(not frozen)
    if frozen and compute.bf16:
        weights.narrow(scorer.model)
    ids = torch.zeros_like(batch.input_ids)
    with _keeping(scorer.layers[0]) as found:
        scorer(PackedBatch(**{**vars(batch), "input_ids": ids}).to(compute.device))
    own = {p.untyped_storage().data_ptr() for p in scorer.parameters()}
    del scorer
    gc.collect()  # hooks hold what they hook
    torch.cuda.empty_cache()
    return sum(size for place, size in found.items() if place not in own)


@contextmanager
def _keeping(layer: torch.nn.Module) -> Iterator[dict[int, int]]:
    """The storages, place -> bytes, that autograd keeps of one forward pass of `layer`."""
    found: dict[int, int] = {}
    alive: list[torch.Tensor] = []  # so that no place is given twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        found[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    begin = layer.register_forward_pre_hook(lambda module, given: hooks.__enter__())
    with begin, layer.register_forward_hook(lambda module, given, output: hooks.__exit__()):
        yield found
    alive.clear()


def check_memory(need: Need, compute: Compute) -> None:
    """Prints what is needed. Raises UserError where that is more than there is, with what to change."""
    free = compute.free()
    print(f"memory of a process: about {need.gib():.1f} GiB of {free:.1f} ({need}, program {PROGRAM:.2f})")
    if need.gib() > free:
        raise UserError(
            f"adaptation needs about {need.gib():.1f} GiB in each process ({need}), {free:.1f} are free: divide the "
            "teacher's layers among more processes (cluster.shard: true, processes, nodes), compute a step in more "
            "pieces (cluster.pieces), keep no activations (cluster.checkpointing: true), train adapters alone "
            "(teacher.adapt.method: lora), lower teacher.adapt.batch_users, or take a smaller teacher"
        )
