"""Memory of a process, devices and hours that adaptation takes, for teachers of four sizes: python -m benchmarks.memory

Weights are counted and activations seen in a layer of random weights (`training.memory`); nothing is trained. Hours are
FLOPs over what the devices give.
"""

from __future__ import annotations

import argparse
import os

import numpy as np
import torch
from transformers import LlamaConfig

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.batches.packing import row_tokens
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.compute import Compute
from fisher_ld.models.weights import empty
from fisher_ld.run.stage import read_params
from fisher_ld.training.memory import Need, needed

SHAPES = {  # layers, width, MLP width, heads, key heads, vocabulary
    "135M": (30, 576, 1536, 9, 3, 49152),
    "1B": (16, 2048, 8192, 32, 8, 128256),
    "8B": (32, 4096, 14336, 32, 8, 128256),
    "70B": (80, 8192, 28672, 64, 8, 128256),
}
USABLE, PEAK, UTILISATION = 72.0, 989e12, 0.4  # GiB and bf16 FLOP/s of an H100; the share of it that training reaches
WINDOWS, ITEM = 10_000, 12  # windows read; tokens of an item's text


def config(name: str) -> LlamaConfig:
    layers, width, mlp, heads, groups, vocabulary = SHAPES[name]
    shape = LlamaConfig(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=mlp, num_hidden_layers=layers,
        num_attention_heads=heads, num_key_value_heads=groups, max_position_embeddings=8192,
        pad_token_id=0,
    )  # fmt: skip
    shape.num_labels = 2
    return shape


def windows(count: int) -> tuple[Lists, Prompts]:
    """As of MovieLens: ten liked items, then six positives with four negatives each."""
    user, place = np.divmod(np.arange(6 * count), 6)
    columns = {"user": user, "start": 0 * user, "position": 10 + place, "positive": 0 * user}
    lists = make_lists(columns, [np.arange(5)] * len(user), [np.arange(16)] * count)
    return lists, Prompts([0] * 8, [[0] * ITEM] * 16, [[0] * ITEM] * 16)


def plan(name: str, method: str) -> tuple[int, Need, float]:
    """Devices, what each needs, and hours, one window a device and step."""
    settings = read_params().teacher.adapt
    smallest = sum(p.numel() for p in empty(config(name)).parameters()) * (2 if method == "lora" else 20) / 2**30
    devices, need = 1, None
    while need is None or need.gib() > USABLE:
        devices *= 1 if need is None else 2
        while smallest / devices > USABLE:
            devices *= 2
        os.environ["WORLD_SIZE"] = str(devices)
        lists, prompts = windows(devices)
        adapt = settings.model_copy(update={"method": method, "batch_users": devices})
        need = needed(config(name), lists, prompts, adapt, Compute(torch.device("cpu"), True, shard=devices > 1))
    lists, prompts = windows(1)
    tokens = row_tokens(lists.windows()[0], lists, prompts) * WINDOWS
    weights = sum(p.numel() for n, p in empty(config(name)).named_parameters() if "layers" in n)
    flops = (6 if method == "full" else 4) * weights * tokens  # adapters need no gradients of weights
    return devices, need, flops / (devices * PEAK * UTILISATION * 3600)


def main() -> None:
    print("| teacher | method | devices | GiB each | weights | training | activations | hours |\n" + "| --- " * 8 + "|")
    for name in SHAPES:
        for method in ("lora", "full"):
            devices, need, hours = plan(name, method)
            parts = " | ".join(f"{part / 2**30:.2f}" for part in (need.weights, need.training, need.activations))
            print(f"| {name} | {method} | {devices} | {need.gib():.1f} | {parts} | {hours:.3f} |", flush=True)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    main()
