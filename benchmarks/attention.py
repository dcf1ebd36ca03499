"""Attention of packed rows in bf16: the grouped form against scaled_dot_product_attention, forward and backward.

    python -m benchmarks.attention

The default teacher's heads (9 queries, 3 keys, 64 wide); a training step of two windows.
Both alternate in one process; the ratio is of medians.
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
CASES = ((1, 480), (2, 480))  # rows, tokens


def main() -> None:
    device = setup(Cluster(), seed=0).device
    module: Any = SimpleNamespace(num_key_value_groups=HEADS // GROUPS, is_causal=True)
    ways = {"grouped": grouped_attention, "sdpa": sdpa_attention_forward}
    for rows, tokens in CASES:

        def random(heads: int, shape: tuple[int, int] = (rows, tokens)) -> torch.Tensor:
            size = (shape[0], heads, shape[1], WIDTH)
            return torch.randn(size, dtype=torch.bfloat16, device=device, requires_grad=True)

        query, key, value = random(HEADS), random(GROUPS), random(GROUPS)
        mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool, device=device).tril()
        times: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(REPEATS):
            for name, attend in ways.items():
                began = time.perf_counter()
                attend(module, query, key, value, mask, scaling=WIDTH**-0.5)[0].sum().backward()
                times[name].append(time.perf_counter() - began)
        ratio = statistics.median(times["sdpa"]) / statistics.median(times["grouped"])
        print(f"{rows} x {tokens} tokens: grouped {ratio:.1f} times as fast as sdpa")


if __name__ == "__main__":
    main()
