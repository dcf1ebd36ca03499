"""Mean states of texts in a pretrained language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoTokenizer

from fisher_ld.core.compute import Compute
from fisher_ld.core.progress import progress
from fisher_ld.models.scorer import Scorer

TOKENS = 2048  # of a batch, padding among them
LONGEST = 64  # tokens of a text that are read


def embed(base: Path, texts: Sequence[str], depths: Mapping[str, float], compute: Compute) -> dict[str, np.ndarray]:
    """For each of `depths` the states of each text after that share of the layers, averaged over its tokens: (texts, d)
    float32, as raw states of some teachers overflow float16. At 1 they are those after the final norm."""
    scorer = Scorer.placed(base, compute, 0, 0, frozen=True)  # answers are not asked for
    scorer.model.set_attn_implementation("sdpa")
    model = scorer.body
    tokens = [ids[:LONGEST] for ids in AutoTokenizer.from_pretrained(base)(list(texts)).input_ids]
    layers = {name: round(share * model.config.num_hidden_layers) for name, share in depths.items()}
    means = {name: np.zeros((len(texts), model.config.hidden_size), np.float32) for name in depths}
    with torch.inference_mode(), torch.autocast(compute.device.type, torch.bfloat16, enabled=compute.bf16):
        for numbers in progress(_batches(tokens), "embedding items", unit="batch"):
            longest = max(len(tokens[i]) for i in numbers)
            ids = torch.tensor([tokens[i] + [0] * (longest - len(tokens[i])) for i in numbers])  # (B, T)
            read = torch.tensor([[t < len(tokens[i]) for t in range(longest)] for i in numbers])  # (B, T)
            ids, read = ids.to(compute.device), read.to(compute.device)
            states = model(ids, attention_mask=read.long(), output_hidden_states=True, use_cache=False).hidden_states
            for name, layer in layers.items():
                total = (states[layer].float() * read[..., None]).sum(1)  # (B, d)
                means[name][numbers] = (total / read.sum(1, keepdim=True)).cpu().numpy()
    return means


def _batches(tokens: Sequence[Sequence[int]]) -> list[list[int]]:
    """Numbers of texts of like length, TOKENS together at most where one text is not longer than that."""
    batches: list[list[int]] = []
    for number in sorted(range(len(tokens)), key=lambda i: -len(tokens[i])):
        if not batches or (len(batches[-1]) + 1) * len(tokens[batches[-1][0]]) > TOKENS:
            batches.append([])
        batches[-1].append(number)
    return batches
