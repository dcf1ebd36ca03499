"""Attention of packed rows on a GPU, by torch's flex_attention: blocks of which no query sees a key are not computed,
and there is no mask of every query and key."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fisher_ld.kernels.attention import refuse_others

FLEX = "packed-flex"


def block_mask(sees: Callable, rows: int, length: int, device: torch.device) -> BlockMask:
    """Of so many rows of `length` tokens each. `sees(row, query, key)`: whether the query may attend to the key."""

    def mask(row: torch.Tensor, head: torch.Tensor, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        return sees(row, query, key)

    gpu = device.type == "cuda"  # where nothing dense is made on the way
    return create_block_mask(mask, rows, None, length, length, device=device, _compile=gpu)


def seen_by(mask: BlockMask, rows: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """What the queries (B, n) of the rows (B, 1) may attend to: (B, n, T) bool."""
    keys = torch.arange(mask.shape[-1], device=rows.device)
    return mask.mask_mod(rows[..., None], rows.new_zeros(()), queries[..., None], keys)


def flex(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, Q, d)
    key: torch.Tensor,  # (B, G, T, d)
    value: torch.Tensor,  # (B, G, T, d)
    attention_mask: BlockMask | torch.Tensor | None,  # a tensor as of torch's own attention
    scaling: float | None = None,
    dropout: float = 0.0,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """softmax(q k' + mask) v, (B, Q, H, d). Torch's own attention is taken for a mask that is a tensor, and with
    dropout. Raises UserError for a model whose attention is another."""
    refuse_others(module, options)
    if isinstance(attention_mask, BlockMask) and not dropout:
        query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings leave them in float32
        attend = _compiled() if query.device.type == "cuda" else flex_attention
        mixed = attend(query, key, value, block_mask=attention_mask, scale=scaling, enable_gqa=True)  # (B, H, Q, d)
        return mixed.transpose(1, 2).contiguous(), None
    if isinstance(attention_mask, BlockMask):
        rows, tokens = (torch.arange(size, device=query.device) for size in (len(query), query.shape[2]))
        attention_mask = seen_by(attention_mask, rows[:, None], tokens[None])[:, None]
    mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **options)
    return mixed, None


@cache
def _compiled() -> Callable:
    return torch.compile(flex_attention)


AttentionInterface.register(FLEX, flex)
AttentionMaskInterface.register(FLEX, sdpa_mask)
