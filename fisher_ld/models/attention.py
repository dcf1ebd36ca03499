"""Attention for packed rows in bf16 on CPU, where the backward pass of torch's own kernel is slow, and without AMX its
forward pass as well (benchmarks/attention.py)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fisher_ld.runtime import UserError

GROUPED = "grouped"
AMX = torch.cpu.get_capabilities().get("amx_bf16", False)


def grouped_attention(
    module: torch.nn.Module,
    query: torch.Tensor,  # (B, H, Q, d)
    key: torch.Tensor,  # (B, G, T, d)
    value: torch.Tensor,  # (B, G, T, d)
    attention_mask: torch.Tensor,  # (B, 1, Q, T) bool, True: may attend
    scaling: float | None = None,
    dropout: float = 0.0,
    **options,
) -> tuple[torch.Tensor, None]:
    """softmax(q k' + mask) v, (B, Q, H, d). The H / G queries of each key head are stacked into one product, so that
    keys and values are never repeated; where no gradients are wanted and the processor has AMX, torch's own kernel is
    taken. Raises UserError for a model whose scores need more than that.
    """
    extra = [name for name in ("softcap", "s_aux", "position_bias") if options.get(name) is not None]
    if extra or dropout:
        raise UserError(
            f"{type(module).__name__} needs {', '.join(extra) or 'dropout'} in its attention, which packed bf16 "
            "attention on CPU does not have; set cluster.precision: fp32"
        )
    query, key = query.to(value.dtype), key.to(value.dtype)  # rotary embeddings leave them in float32
    batch, heads, length, width = query.shape
    scale = width**-0.5 if scaling is None else scaling
    if AMX and not torch.is_grad_enabled():
        mixed = F.scaled_dot_product_attention(
            query, key, value, attn_mask=attention_mask, scale=scale, enable_gqa=True
        )
        return mixed.transpose(1, 2).contiguous(), None
    groups = key.shape[1]
    stacked = (query * scale).reshape(batch, groups, -1, width)
    bias = torch.zeros_like(attention_mask, dtype=query.dtype).masked_fill_(~attention_mask, float("-inf"))
    scores = (stacked @ key.mT).view(batch, groups, -1, length, key.shape[2])  # (B, G, H / G, Q, T)
    scores += bias[:, :, None]
    weights = scores.softmax(-1).view(batch, groups, -1, key.shape[2])
    mixed = (weights @ value).view(batch, heads, length, width)
    return mixed.transpose(1, 2).contiguous(), None


AttentionInterface.register(GROUPED, grouped_attention)
AttentionMaskInterface.register(GROUPED, sdpa_mask)
