"""Causal attention on the CPU, faster than torch's own there, above all in the backward pass (benchmarks/attention.py).

Queries are taken in strips of consecutive tokens, each with the keys up to its last one alone. The H / G queries of a
key head stand in one product, so that keys and values are never repeated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fisher_ld.core.errors import ANOTHER, UserError

STRIPS = "strips"
AMX = torch.cpu.get_capabilities().get("amx_bf16", False)
# Rows and kept tokens are for float32; bf16 has twice as many.
ROWS = 64  # of a strip, at most: with fewer, products are small and slow, with more, much is done in vain
KEPT = 512  # tokens up to which weights stay for the backward pass; of more, they are computed again
LONG = 1024  # tokens of float32 up to which strips are at least as fast as torch's kernel where nothing is padded


def spans(length: int, rows: int = ROWS) -> list[tuple[int, int]]:
    """The rows of each strip, [(first, end)]: as few strips of at most `rows` as there can be, about equal."""
    count = -(-length // rows)
    return list(pairwise(length * k // count for k in range(count + 1)))


def strip_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, Q, d)
    key: torch.Tensor,  # (B, G, T, d)
    value: torch.Tensor,  # (B, G, T, d)
    attention_mask: torch.Tensor | None,  # (B or 1, 1, Q, T) bool, True: may attend; None: to no later token
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: object,
) -> tuple[torch.Tensor, None]:
    """softmax(q k' + mask) v, (B, Q, H, d). Where Q = T the mask must show no query a later token. With dropout, in
    bf16 where no gradients are wanted and the processor has AMX, and in float32 for long rows without padding, torch's
    own kernel is taken. Raises UserError for a model whose attention is another."""
    refuse_others(module, options)
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings leave them in float32
    batch, heads, length, width = query.shape
    groups, tokens = key.shape[1:3]
    scale = width**-0.5 if scaling is None else scaling
    if attention_mask is not None:
        attention_mask = attention_mask.expand(-1, 1, length, tokens)
    elif length < tokens:
        attention_mask = query.new_ones(1, 1, length, tokens, dtype=torch.bool).tril(tokens - length)
    scores_on_amx = AMX and value.dtype == torch.bfloat16 and not torch.is_grad_enabled()
    plain = attention_mask is None and value.dtype == torch.float32 and value.shape[3] == width
    if dropout or scores_on_amx or (plain and tokens > LONG):
        mixed = F.scaled_dot_product_attention(
            query, key, value, attention_mask, dropout, attention_mask is None, scale=scale, enable_gqa=True
        )  # (B, H, Q, d)
        return mixed.transpose(1, 2).contiguous(), None
    stacked = (query * scale).unflatten(1, (groups, -1)).transpose(2, 3)  # (B, G, Q, H / G, d)
    mixed = _Strips.apply(
        stacked.reshape(batch * groups, -1, width),
        key.flatten(0, 1),
        value.flatten(0, 1),
        _strips(attention_mask, query, tokens, heads // groups),
    )
    return mixed.view(batch, groups, length, -1).transpose(1, 2).reshape(batch, length, heads, -1), None


def refuse_others(module: torch.nn.Module, options: Mapping[str, object]) -> None:
    """Raises UserError for a model whose attention is another than softmax(q k') of what is not later."""
    extra = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if not options.get("is_causal", getattr(module, "is_causal", True)):
        extra.append("sight of later tokens")
    if extra:
        raise UserError(
            f"{type(module).__name__} needs {', '.join(extra)}, which attention does not have here: {ANOTHER}"
        )


@dataclass(frozen=True)
class _Strip:
    rows: slice  # of the queries
    seen: slice  # keys that it may see
    mask: torch.Tensor  # (B or 1, 1, n, 1, m) bool, of the last m of these keys


def _strips(mask: torch.Tensor | None, query: torch.Tensor, tokens: int, each: int) -> list[_Strip]:
    """The strips of queries (B, H, Q, d), `each` a token and key head, that have `tokens` keys."""
    length = query.shape[2]
    if mask is not None:
        mask = mask[:, :, :, None]  # (B or 1, 1, Q, 1, T)
        if length < tokens:
            return [_Strip(slice(None), slice(None), mask)]
    strips = []
    for first, end in spans(length, ROWS * 4 // query.element_size()):
        if mask is None:  # all tokens before the strip's own are seen
            part = query.new_ones(1, 1, end - first, end - first, dtype=torch.bool).tril()[:, :, :, None]
        else:
            part = mask[:, :, first:end, :, :end]
        strips.append(_Strip(slice(first * each, end * each), slice(end), part))
    return strips


class _Strips(torch.autograd.Function):
    """softmax(q k') v: query (N, Q R, d), R queries a token, key and value (N, T, d)."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, strips: list[_Strip]):
        mixed, kept = [], []
        keep = any(ctx.needs_input_grad) and key.shape[1] <= KEPT * 4 // key.element_size()
        for strip in strips:
            weights = _weights(query, key, strip)
            mixed.append(weights @ value[:, strip.seen])
            kept += [weights] if keep else []
        ctx.strips = strips
        ctx.save_for_backward(query, key, value, *kept)
        return _joined(mixed)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor):  # pyright: ignore[reportIncompatibleMethodOverride]
        query, key, value, *kept = ctx.saved_tensors
        of_query: list[torch.Tensor] = []
        of_key = of_value = key.new_empty(0)
        for strip in reversed(ctx.strips):
            rows, seen = strip.rows, strip.seen
            weights = kept.pop() if kept else _weights(query, key, strip)
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


def _joined(strips: list[torch.Tensor]) -> torch.Tensor:
    return strips[0] if len(strips) == 1 else torch.cat(strips, 1)


def _weights(query: torch.Tensor, key: torch.Tensor, strip: _Strip) -> torch.Tensor:
    """softmax(q k') of a strip: (N, Q R, d), (N, T, d) -> (N, n R, t)."""
    scores = query[:, strip.rows] @ key[:, strip.seen].mT
    batch, _, length, _, last = strip.mask.shape
    by_token = scores.view(batch, -1, length, scores.shape[1] // length, scores.shape[2])
    by_token[..., -last:].masked_fill_(~strip.mask, torch.finfo(scores.dtype).min)
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
