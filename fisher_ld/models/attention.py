"""Causal attention on the CPU, where torch's own computes what no query may see as well and has a slow backward pass
(benchmarks/attention.py).

Queries are taken in strips of consecutive tokens, each with the keys up to its last one alone. The H / G queries of a
key head stand in one product, so that keys and values are never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fisher_ld.runtime import UserError

STRIPS = "strips"
AMX = torch.cpu.get_capabilities().get("amx_bf16", False)
ROWS = 64  # of a strip in float32, at most: with fewer, products are small and slow, with more, much is done in vain
KEPT = 512  # tokens in float32 up to which weights stay for the backward pass; of more, they are computed again


def spans(length: int, rows: int = ROWS) -> list[tuple[int, int]]:
    """The rows of each strip, [(first, end)]: as few strips of at most `rows` as there can be, about equal."""
    count = -(-length // rows)
    return list(pairwise(length * k // count for k in range(count + 1)))


def strip_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, Q, d)
    key: torch.Tensor,  # (B, G, T, d)
    value: torch.Tensor,  # (B, G, T, d)
    attention_mask: torch.Tensor | None,  # (B, 1, Q, T) bool, True: may attend; None: to all tokens up to its own
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """softmax(q k' + mask) v, (B, Q, H, d). Where Q = T no query may see a later token; fewer queries (at decision
    tokens) see what the mask says. In bf16, where no gradients are wanted and the processor has AMX, torch's own kernel
    is taken. Raises UserError for a model whose attention is another."""
    extra = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    extra += ["dropout"] * bool(dropout) + ["sight of later tokens"] * (not getattr(module, "is_causal", True))
    if extra:
        raise UserError(
            f"{type(module).__name__} needs {', '.join(extra)}, which our attention on the CPU does not have: "
            "choose a teacher of another architecture, or set cluster.device: cuda"
        )
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings leave them in float32
    batch, heads, length, width = query.shape
    groups, tokens = key.shape[1:3]
    scale = width**-0.5 if scaling is None else scaling
    if AMX and value.dtype == torch.bfloat16 and not torch.is_grad_enabled():
        causal = attention_mask is None
        mixed = F.scaled_dot_product_attention(
            query, key, value, attention_mask, 0.0, causal, scale=scale, enable_gqa=True
        )
        return mixed.transpose(1, 2).contiguous(), None
    if attention_mask is None:
        attention_mask = query.new_ones(length, tokens, dtype=torch.bool).tril()
    hidden = ~attention_mask.expand(batch, 1, length, tokens)[:, :, :, None]  # (B, 1, Q, 1, T)
    stacked = (query * scale).unflatten(1, (groups, -1)).transpose(2, 3)  # (B, G, Q, H / G, d)
    mixed = _Strips.apply(stacked.reshape(batch * groups, -1, width), key.flatten(0, 1), value.flatten(0, 1), hidden)
    return mixed.view_as(stacked).transpose(1, 2).reshape(batch, length, heads, width), None


class _Strips(torch.autograd.Function):
    """softmax(q k') v: query (N, Q R, d), R queries a token, key and value (N, T, d)."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, hidden: torch.Tensor):
        mixed, kept = [], []
        for rows, seen, masked in _Strips.parts(query, hidden):
            weights = _weights(query[:, rows], key[:, seen], masked)
            mixed.append(weights @ value[:, seen])
            if hidden.shape[4] <= KEPT * 4 // query.element_size():
                kept.append(weights)
        ctx.save_for_backward(query, key, value, hidden, *kept)
        return _joined(mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, hidden, *kept = ctx.saved_tensors
        of_query: list[torch.Tensor] = []
        of_key = of_value = key.new_empty(0)
        for rows, seen, masked in reversed(_Strips.parts(query, hidden)):
            weights = kept.pop() if kept else _weights(query[:, rows], key[:, seen], masked)
            of_weights = gradient[:, rows] @ value[:, seen].mT
            of_scores = torch.ops.aten._softmax_backward_data(of_weights, weights, -1, weights.dtype)
            products = of_scores.mT @ query[:, rows], weights.mT @ gradient[:, rows]
            if of_query:
                of_key[:, seen] += products[0]
                of_value[:, seen] += products[1]
            else:  # the last strip sees every key
                of_key, of_value = products
            of_query.insert(0, of_scores @ key[:, seen])
        return _joined(of_query), of_key, of_value, None

    @staticmethod
    def parts(query: torch.Tensor, hidden: torch.Tensor) -> list[tuple[slice, slice, torch.Tensor]]:
        """Of each strip: its rows of `query`, the keys that it sees, and which of these are hidden."""
        length, tokens = hidden.shape[2], hidden.shape[4]
        each = query.shape[1] // length  # R
        if length != tokens:
            return [(slice(None), slice(None), hidden)]
        return [
            (slice(first * each, end * each), slice(end), hidden[:, :, first:end, :, :end])
            for first, end in spans(length, ROWS * 4 // query.element_size())
        ]


def _joined(strips: list[torch.Tensor]) -> torch.Tensor:
    return strips[0] if len(strips) == 1 else torch.cat(strips, 1)


def _weights(query: torch.Tensor, key: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
    scores = query @ key.mT  # (N, n R, T)
    batch, _, length, _, tokens = hidden.shape
    scores.view(batch, -1, length, query.shape[1] // length, tokens).masked_fill_(hidden, torch.finfo(scores.dtype).min)
    return scores.softmax(-1)


@contextmanager
def by_strips(model: PreTrainedModel) -> Iterator[None]:
    """Within it, a model on the CPU that takes torch's attention takes this one."""
    torchs = model.device.type == "cpu" and model.config._attn_implementation == "sdpa"
    if torchs:
        model.set_attn_implementation(STRIPS)
    try:
        yield
    finally:
        if torchs:
            model.set_attn_implementation("sdpa")


AttentionInterface.register(STRIPS, strip_attention)
AttentionMaskInterface.register(STRIPS, sdpa_mask)
