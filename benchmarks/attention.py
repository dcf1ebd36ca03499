"""Attention of packed rows in bf16: ours against scaled_dot_product_attention, in training and in scoring.

    python -m benchmarks.attention

The default teacher's heads (9 queries, 3 keys, 64 wide); a training step of two windows, forward and backward, and
four rows of test lists, forward alone. Both alternate in one process; the ratio is of medians.
"""

from __future__ import annotations

import statistics
import time
from types import SimpleNamespace
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from fisher_ld.models.attention import grouped_attention
from fisher_ld.params import Cluster
from fisher_ld.runtime import setup

HEADS, GROUPS, WIDTH, REPEATS = 9, 3, 64, 15
CASES = (("training", 2, 480), ("scoring", 4, 416))  # rows, tokens


def main() -> None:
    device = setup(Cluster(), seed=0).device
    module: Any = SimpleNamespace(num_key_value_groups=HEADS // GROUPS, is_causal=True)
    ways = {"ours": grouped_attention, "sdpa": sdpa_attention_forward}
    for work, rows, tokens in CASES:
        trains = work == "training"
        query, key, value = (
            torch.randn(rows, heads, tokens, WIDTH, dtype=torch.bfloat16, device=device, requires_grad=trains)
            for heads in (HEADS, GROUPS, GROUPS)
        )
        mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool, device=device).tril()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, attend in ways.items():
                began = time.perf_counter()
                with torch.set_grad_enabled(trains):
                    mixed = attend(module, query, key, value, mask, scaling=WIDTH**-0.5)[0]
                if trains:
                    mixed.sum().backward()
                times[name].append(time.perf_counter() - began)
        ratio = statistics.median(times["sdpa"]) / statistics.median(times["ours"])
        print(f"{work}, {rows} x {tokens} tokens: ours {ratio:.1f} times as fast as sdpa")


if __name__ == "__main__":
    main()
