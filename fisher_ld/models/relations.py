"""What attention says at the decision token: how a candidate's last token looks at the tokens of its own prompt.

A packed row holds many prompts. Here every candidate gets a row of its own, (N, P): place p is the p-th token of its
prompt, P the length of the longest prompt in the batch, so that teacher and student can be compared place by place
wherever their tokenizers cut alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import pad
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from fisher_ld.batches.packing import PackedBatch, sees
from fisher_ld.kernels.last_layer import slots

HEADS = 4  # common relation heads: those of teacher and student are joined and cut anew into so many
_KEPT = "kept"
_beneath: list[tuple[Any, list[Attended]]] = []  # the attention that computes, and what it was given


class Attended(NamedTuple):
    """What the attention of one layer was given, rotary embeddings included."""

    query: torch.Tensor  # (B, H, Q, d): of all tokens, or of the decision tokens alone
    key: torch.Tensor  # (B, G, T, d)
    value: torch.Tensor  # (B, G, T, d)
    scale: float  # of the scores q k


def _keep(module: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *mask: Any, **options: Any) -> Any:
    attend, kept = _beneath[-1]
    kept.append(Attended(query, key, value, options.get("scaling") or query.shape[-1] ** -0.5))
    return attend(module, query, key, value, *mask, **options)


@contextmanager
def keeping(model: Any) -> Iterator[list[Attended]]:
    """Within it every layer of `model` leaves here what its attention is given, from the lowest up; none does whose
    attention is not one of transformers' interface (`eager`)."""
    name, kept = model.config._attn_implementation, []
    if name not in AttentionInterface():
        yield kept
        return
    _beneath.append((AttentionInterface()[name], kept))
    model.set_attn_implementation(_KEPT)
    try:
        yield kept
    finally:
        model.set_attn_implementation(name)
        _beneath.pop()


class Places(NamedTuple):
    """Where the tokens of each candidate's prompt stand in its packed row. The first of them is left out: whatever a
    head has no use for it puts there, so that it would outweigh all others."""

    row: torch.Tensor  # (N,)
    decision: torch.Tensor  # (N,) column of the decision token
    slot: torch.Tensor  # (N,) which decision token of its row
    columns: torch.Tensor  # (N, P), 0 beyond the prompt
    present: torch.Tensor  # (N, P) bool

    @classmethod
    def of(cls, batch: PackedBatch) -> Places:
        row, column = batch.decision.unbind(1)
        tokens = torch.arange(batch.segment.shape[1], device=row.device)
        seen = sees(batch.segment, batch.visible, row[:, None], column[:, None], tokens)  # (N, T)
        candidate, at = seen.nonzero(as_tuple=True)
        place = batch.position_ids[row[candidate], at]
        columns = row.new_zeros(len(row), int(place.max()) + 1)
        present = torch.zeros_like(columns, dtype=torch.bool)
        columns[candidate, place], present[candidate, place] = at, place > 0
        return cls(row, column, slots(row), columns, present)

    @classmethod
    def alone(cls, decision: torch.Tensor, attention_mask: torch.Tensor) -> Places:
        """Of prompts that have a row each: decision (N,), attention_mask (N, T), 1 where a token is real."""
        row, columns = torch.arange(len(decision), device=decision.device), torch.zeros_like(attention_mask)
        columns += torch.arange(columns.shape[1], device=columns.device)
        present = (attention_mask.cumsum(1) > 1) & (attention_mask == 1)
        return cls(row, decision, torch.zeros_like(row), columns, present)

    def scores(self, query: torch.Tensor, key: torch.Tensor, scale: float | None = None) -> torch.Tensor:
        """q_n k_p times `scale` (None: 1 / sqrt(d)) of each candidate's query (N, R, d) and the keys of its prompt,
        (B, T, R, d) -> (N, R, P); 0 beyond the prompt."""
        parts = [
            torch.einsum("nrd,trd->nrt", query[self.row == b], key[b]) for b in range(len(key))
        ]  # decisions are ordered by row
        scores = torch.cat(parts) * (scale or query.shape[-1] ** -0.5)  # (N, R, T)
        heads = self.columns[:, None].expand(-1, scores.shape[1], -1)
        return scores.gather(2, heads).masked_fill(~self.present[:, None], 0)

    def queries(self, attended: Attended) -> torch.Tensor:
        """Of the decision tokens, (N, H, d)."""
        whole = attended.query.shape[2] == attended.key.shape[2]
        return attended.query[self.row, :, self.decision if whole else self.slot]


def log_softmax(scores: torch.Tensor, present: torch.Tensor) -> torch.Tensor:
    """(N, R, P) over the places of each prompt, present (N, P); 0 beyond it."""
    absent = ~present[:, None]
    found = scores.masked_fill(absent, torch.finfo(scores.dtype).min).log_softmax(-1)
    return found.masked_fill(absent, 0)


def attention_maps(attended: Sequence[Attended], places: Places) -> torch.Tensor:
    """The decision token's attention to the `places` of its prompt, squared and averaged over heads: (N, L, P)."""
    return torch.stack([_probabilities(one, places).square().mean(1) for one in attended], 1)


def attention_divergence(attended: Sequence[Attended], places: Places) -> torch.Tensor:
    """KL of the decision token's attention, averaged over heads, from uniform attention to the `places` of its prompt:
    (N, L)."""
    length = places.present.sum(1, keepdim=True)  # (N, 1)
    mean = torch.stack([_probabilities(one, places).mean(1) for one in attended], 1)  # (N, L, P)
    return torch.special.xlogy(mean, mean * length[..., None]).sum(-1)


def attention_scores(attended: Sequence[Attended], places: Places) -> torch.Tensor:
    """The decision token's attention scores in common relation heads: (N, L, HEADS, P)."""
    return torch.stack([_scores(one, places) for one in attended], 1)


def relations(last: Attended, places: Places) -> torch.Tensor:
    """The decision token's scores with the keys, and its value's with the values, in common relation heads: (N, 2,
    HEADS, P)."""
    values = _common(last.value.transpose(1, 2))  # (B, T, R, d)
    own = values[places.row, places.decision]
    return torch.stack([_scores(last, places), places.scores(own, values)], 1)


def _probabilities(one: Attended, places: Places) -> torch.Tensor:
    """Of each of the model's own heads, (N, H, P); 0 beyond the prompt."""
    scores = places.scores(_exact(places.queries(one)), _exact(_repeated(one)), one.scale)
    return log_softmax(scores, places.present).exp().masked_fill(~places.present[:, None], 0)


def _scores(one: Attended, places: Places) -> torch.Tensor:
    return places.scores(_common(places.queries(one)), _common(_repeated(one)))


def _repeated(one: Attended) -> torch.Tensor:
    """The keys, one for each query head: (B, T, H, d)."""
    return one.key.repeat_interleave(one.query.shape[1] // one.key.shape[1], 1).transpose(1, 2)


def _common(heads: torch.Tensor) -> torch.Tensor:
    """(..., H, d) -> (..., HEADS, H d / HEADS), zeros beside where that leaves a rest."""
    joined = _exact(heads).flatten(-2)
    return pad(joined, (0, -joined.shape[-1] % HEADS)).unflatten(-1, (HEADS, -1))


def _exact(values: torch.Tensor) -> torch.Tensor:
    """In float32 at least."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


AttentionInterface.register(_KEPT, _keep)
AttentionMaskInterface.register(_KEPT, sdpa_mask)
