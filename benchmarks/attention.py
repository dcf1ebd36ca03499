"""Attention on the CPU: ours against transformers' way to scaled_dot_product_attention.

    python -m benchmarks.attention

The default teacher's heads (9 queries, 3 keys, 64 wide). In bf16 a training step of two windows, forward and backward,
and four rows of test lists, forward alone; in float32 the forward and backward of Fisher norms. Both alternate in one
process; the ratio is of medians.
"""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fisher_ld.config.params import load_params
from fisher_ld.core.compute import setup
from fisher_ld.kernels.attention import strip_attention

HEADS, GROUPS, WIDTH, REPEATS = 9, 3, 64, 15
CASES = (  # rows, tokens
    ("training", torch.bfloat16, 2, 480),
    ("scoring", torch.bfloat16, 4, 416),
    ("Fisher norms", torch.float32, 16, 32),
    ("Fisher norms", torch.float32, 8, 96),
    ("Fisher norms", torch.float32, 8, 160),
    ("Fisher norms", torch.float32, 4, 256),
    ("Fisher norms", torch.float32, 2, 512),
)


def main() -> None:
    device = setup(load_params("params.yaml", {}).cluster, "fp32", seed=0).device
    module: Any = SimpleNamespace(num_key_value_groups=HEADS // GROUPS, is_causal=True)
    ways = {"ours": strip_attention, "sdpa": sdpa_attention_forward}
    for work, dtype, rows, tokens in CASES:
        trains = work != "scoring"
        query, key, value, gradient = (
            torch.randn(rows, tokens, heads, WIDTH, dtype=dtype, device=device)
            for heads in (HEADS, GROUPS, GROUPS, HEADS)
        )
        inputs = [part.transpose(1, 2).requires_grad_(trains) for part in (query, key, value)]
        mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool, device=device).tril()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, attend in ways.items():
                began = time.perf_counter()
                with torch.set_grad_enabled(trains):
                    mixed = attend(module, *inputs, mask, scaling=WIDTH**-0.5)[0]
                if trains:
                    torch.autograd.grad(mixed, inputs, gradient)
                times[name].append(time.perf_counter() - began)
        ratio = statistics.median(times["sdpa"]) / statistics.median(times["ours"])
        print(f"{work}, {rows} x {tokens} tokens: ours {ratio:.1f} times as fast as sdpa")


if __name__ == "__main__":
    main()
