"""A narrower model from a wider one of the Llama family: its residual stream seen along a few directions."""

from __future__ import annotations

import math
from typing import Any

import torch

from fisher_ld.core.errors import UserError
from fisher_ld.models.scorer import unit_rms

SAMPLE = 1000  # examples whose states span the directions
State = dict[str, torch.Tensor]


def principal_directions(samples: torch.Tensor | None, width: int, kept: int) -> torch.Tensor:
    """The `kept` orthonormal directions (d_T, d_S) that hold most of the states (n, d_T), each at unit RMS, which is
    how a norm reads them. Not centred: there is no bias to give a mean back. Raises UserError without n >= d_S
    states of width d_T."""
    if samples is None or samples.ndim != 2 or samples.shape[1] != width or len(samples) < kept:
        got = "none" if samples is None else tuple(samples.shape)
        raise UserError(
            f"students: hidden_size: going from the teacher's {width} to {kept} takes at least {kept} of its hidden "
            f"states (n, {width}), got {got}; leave hidden_size out, or set init: random"
        )
    states = unit_rms(samples.detach().cpu().double())  # (n, d_T)
    return torch.linalg.eigh(states.T @ states).eigenvectors[:, -kept:].flip(1)  # (d_T, d_S)


def _largest(norms: torch.Tensor, count: int) -> torch.Tensor:
    """Places of the `count` largest values, in rising order of place."""
    return norms.topk(count).indices.sort().values


def _heads(o_proj: torch.Tensor, source: Any, config: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Channels of the query heads and of the key/value heads that are kept, whole heads by the norm of their part of
    the output projection (d_T, heads * head_dim): first the heaviest key/value groups, then within each the heaviest
    heads, so that every query head keeps the keys that it was trained with."""
    group = source.num_attention_heads // source.num_key_value_heads
    own_group = config.num_attention_heads // config.num_key_value_heads
    size = config.head_dim
    norms = o_proj.square().sum(0).view(-1, group, size).sum(-1)  # (kv_T, group_T)
    kv = _largest(norms.sum(1), config.num_key_value_heads)  # (kv_S,)
    query = torch.cat([k * group + _largest(norms[k], own_group) for k in kv])  # (heads_S,)
    channels = torch.arange(size)
    return (query[:, None] * size + channels).flatten(), (kv[:, None] * size + channels).flatten()


def _layer(layer: State, source: Any, config: Any, basis: torch.Tensor, gain: float) -> State:
    w = {name: value.double() for name, value in layer.items()}
    query, kv = _heads(w["self_attn.o_proj.weight"], source, config)
    size = [w[f"mlp.{n}_proj.weight"].square().sum(1 - d) for n, d in (("gate", 0), ("up", 0), ("down", 1))]
    neurons = _largest(size[0] * size[1] * size[2], config.intermediate_size)
    norm = {"self_attn": "input_layernorm.weight", "mlp": "post_attention_layernorm.weight"}
    made: State = {}
    for name, value in w.items():
        if name in norm.values():
            made[name] = torch.full((basis.shape[1],), gain)
            continue
        block, linear, kind = name.split(".")
        channels = {"q_proj": query, "o_proj": query, "k_proj": kv, "v_proj": kv}.get(linear, neurons)
        if linear in ("o_proj", "down_proj"):  # writes to the residual stream
            made[name] = basis.T @ (value[:, channels] if kind == "weight" else value)
        elif kind == "weight":  # reads from it, through the norm
            made[name] = (value[channels] * w[norm[block]]) @ basis
        else:
            made[name] = value[channels]
    return made


def project(
    layers: list[State], outer: State, score: State, source: Any, config: Any, basis: torch.Tensor | None
) -> tuple[list[State], State, State]:
    """Weights of the narrower model: decoder layers, embeddings with the final norm, and score head.

    The student's stream is P^T h, P (d_T, d_S) orthonormal; None: the full width. What reads it,
    W (g * h / rms(h)), becomes W diag(g) P with a constant norm weight sqrt(d_T / d_S), since the student's norm
    divides by sqrt(|P^T h|^2 / d_S); what writes to it, W, becomes P^T W. With d_S = d_T, all heads and all neurons the
    function is the teacher's. The neurons kept are those with the largest product of their gate, up and down norms.
    """
    gain = math.sqrt(source.hidden_size / config.hidden_size)
    if basis is None:
        basis = torch.eye(source.hidden_size, dtype=torch.float64)
    final = outer["norm.weight"].double()
    own = {"embed_tokens.weight": outer["embed_tokens.weight"].double() @ basis}
    own["norm.weight"] = torch.full((basis.shape[1],), gain)
    head = {"weight": (score["weight"].double() * final) @ basis}  # (2, d_S)
    made = [_layer(layer, source, config, basis, gain) for layer in layers]
    return made, own, head
