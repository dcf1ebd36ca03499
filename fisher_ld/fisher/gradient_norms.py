"""Squared norms of every example's logit gradient, layer by layer, from one backward pass.

For an example with logit z, n_l = ||dz/dtheta_l||^2 over all parameters of layer l. The Fisher traces follow from
(z, n_l) without the model (`profile`); that of a softmax over a list also takes ||sum_c p_c dz_c/dtheta_l||^2 of the
list's candidates. No parameter requires a gradient: the backward of sum(z) computes the gradients of activations only,
which hooks and the backward pass of RMS norms read. Rows do not depend on each other, so that p_c times what is read of
a row belongs to p_c z_c: the list's sum takes no pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn
from transformers import PreTrainedModel

from fisher_ld.core.errors import UserError
from fisher_ld.fisher.coverage import Covered, cover
from fisher_ld.fisher.hooks import GradientReader, Sums, reading_states
from fisher_ld.kernels.attention import by_strips
from fisher_ld.kernels.last_layer import only_at_decisions
from fisher_ld.kernels.linear import by_onednn
from fisher_ld.kernels.recompute import recomputed
from fisher_ld.models.relations import Places, attention_divergence, keeping
from fisher_ld.models.scorer import Scorer


@dataclass(frozen=True)
class PromptBatch:
    """N independent prompts, one a row, padded behind."""

    input_ids: torch.Tensor  # (N, T)
    attention_mask: torch.Tensor  # (N, T), 1 where a token is real
    decision: torch.Tensor  # (N,) column of each row's decision token

    def to(self, device: torch.device) -> PromptBatch:
        return PromptBatch(*(tensor.to(device) for tensor in vars(self).values()))


@dataclass(frozen=True)
class Squares:
    """Squared norms of n gradients, float64. Columns are the layers."""

    layers: torch.Tensor  # (n, L)
    normalisation: torch.Tensor  # (n, L) the part of `layers` that belongs to normalisation parameters
    embedding: torch.Tensor  # (n,) token and position embeddings
    head: torch.Tensor  # (n,) final norm and the two rows of the head


@dataclass(frozen=True)
class GradientNorms(Squares):
    """||dz/dtheta||^2 of N examples, and what else their forward and backward pass tells, float64."""

    logits: torch.Tensor  # (N,) z
    sensitivity: torch.Tensor  # (N, L) ||dz/dh_l||^2 rms(h_l)^2, h_l the output of layer l at the decision token
    attention: torch.Tensor | None  # (N, L) KL of the decision token's attention from uniform; None where it is `eager`
    lists: Squares | None  # of sum_c p_c dz_c/dtheta of each list, p the softmax of z over its candidates


def pad_prompts(prompts: Sequence[Sequence[int]]) -> PromptBatch:
    """Prompts that end with their decision token, padded with token 0 to the longest. Raises ValueError where there is
    no prompt, or an empty one."""
    if not prompts or not all(prompts):
        raise ValueError(f"expected one prompt or more, none of them empty, got lengths {[len(p) for p in prompts]}")
    longest = max(map(len, prompts))
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)  # (N, T)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)] = torch.tensor(prompt)
        mask[row, : len(prompt)] = 1
    return PromptBatch(ids, mask, mask.sum(1) - 1)


def logits_of(model: PreTrainedModel, batch: PromptBatch) -> torch.Tensor:
    """z = logit(yes) - logit(no) at the decision tokens: (N,). Raises UserError for a model without a two-row head."""
    head = getattr(model, "score", None)
    if not isinstance(head, nn.Module) or model.config.num_labels != 2:
        raise UserError(
            f"expected a sequence classification model with a head `score` of two labels (no, yes), got "
            f"{type(model).__name__} with {model.config.num_labels} labels; Scorer.from_causal_lm makes one"
        )
    positions = batch.attention_mask.cumsum(1) - 1  # (N, T)
    hidden = model.base_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=positions, use_cache=False
    ).last_hidden_state  # (N, T, d)
    rows = torch.arange(len(hidden), device=hidden.device)
    no, yes = head(hidden[rows, batch.decision]).unbind(-1)  # (N,), (N,)
    return yes - no


def gradient_norms(
    scorer: Scorer,
    batch: PromptBatch,
    checkpointing: bool = False,
    covered: list[Covered] | None = None,
    candidates: int | None = None,
) -> GradientNorms:
    """||dz/dtheta_l||^2 of every example and layer, in float32 at least.

    candidates: so many rows after each other are a list, of which ||sum_c p_c dz_c/dtheta_l||^2 is told too.
    checkpointing: keep only each layer's input and recompute the rest in the backward pass. covered:
    `cover(scorer.model)`, where it was taken before: its probes cost some 2% of a batch.

    The last layer computes its queries, keys and values at all tokens, the rest at the decision tokens alone:
    elsewhere its gradient is zero.

    Raises UserError for a model whose parameters are not all covered (see `coverage`), for a module that is never used
    on the way to z or in another way than is covered, for a linear layer of which one output gets a gradient in two
    calls, for a last layer that does not take transformers' cache, and for gradient norms that are not finite.
    """
    model, stack = scorer.model, scorer.layers
    count = len(stack)
    rows = torch.arange(len(batch.decision), device=batch.decision.device)
    if not batch.attention_mask[rows, batch.decision].all():
        raise UserError("the decision token of an example is padding: expected attention_mask 1 at its column")
    covered = covered or cover(model)
    size = len(rows)
    if candidates and size % candidates:
        raise ValueError(f"expected lists of {candidates} rows each, got {size} rows")
    zeros = partial(torch.zeros, dtype=torch.float64, device=rows.device)
    sums = [Sums(zeros(2, size, count + 2))]
    if candidates:
        of_lists = zeros(2, size // candidates, count + 2)
        sums.append(Sums(of_lists, length=batch.input_ids.shape[1], alike=_alike(batch, candidates)))
    reader, sensitivity = GradientReader(size, sums), zeros(size, count)

    decision = torch.stack([rows, batch.decision], 1)
    at_decisions = only_at_decisions(stack[-1], decision)
    with (
        _frozen(model),
        by_strips(model),
        by_onednn(part.module for part in covered),
        recomputed(stack[:-1] if checkpointing else (), reentrant=True),
        at_decisions,
        reader.reading(covered),
        reading_states(stack, batch.decision, sensitivity),
        keeping(model) as attended,
        torch.enable_grad(),
    ):
        z = logits_of(model, batch)
        if candidates:
            sums[1].weights = z.detach().double().view(-1, candidates).softmax(-1).flatten()  # (N,)
        z.sum().backward()
    divergence = None
    if attended:
        with torch.no_grad():  # recomputed layers attend a second time
            divergence = attention_divergence(attended[:count], Places.alone(batch.decision, batch.attention_mask))

    reader.finish(covered)
    total, _ = sums[0].squares  # (N, L + 2)
    if not total.isfinite().all():
        row, column = (~total.isfinite()).nonzero()[0].tolist()
        raise UserError(
            f"the gradient norm of example {row} in layer {column} (0 embedding, {count + 1} head) is not finite: "
            "look at the model's weights and at the attention mask"
        )
    columns = [part.squares for part in sums]
    of_examples, *lists = [Squares(s[:, 1:-1], n[:, 1:-1], s[:, 0], s[:, -1]) for s, n in columns]
    return GradientNorms(
        **vars(of_examples),
        logits=z.detach().double(),
        sensitivity=sensitivity,
        attention=None if divergence is None else divergence.double(),
        lists=lists[0] if lists else None,
    )


def _alike(batch: PromptBatch, candidates: int) -> int:
    """Tokens with which all prompts of each list begin."""
    tokens = torch.stack([batch.input_ids, batch.attention_mask], -1).unflatten(0, (-1, candidates))  # (M, C, T, 2)
    same = (tokens == tokens[:, :1]).all(-1).all(1).all(0)  # (T,)
    return int(same.cumprod(0).sum())


@contextmanager
def _frozen(model: PreTrainedModel) -> Iterator[None]:
    """No dropout, and no parameter that requires a gradient."""
    training = [module for module in model.modules() if module.training]
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    model.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for module in training:
            module.training = True
        for parameter in trainable:
            parameter.requires_grad_(True)
