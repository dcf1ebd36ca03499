"""Which items follow which, learned before any prompt is read: the teacher's first layers get states of items whose
products say which of them are liked soon after which.

A prompt teaches that by a yes or no for each candidate, for one history at a time. Here up to ITEMS items are compared
with each other at once, each read alone, behind the prefix and in the two forms that prompts have: up to the token that
ends it in a history, and up to the decision token of a candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from fisher_ld.batches.lists import COLUMNS, Lists, make_lists
from fisher_ld.batches.packing import PackedBatch
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.models.scorer import Scorer, unit_rms
from fisher_ld.training.loop import Schedule, fit

ITEMS = 256  # compared at once, at most
TOKENS = 512  # of a packed row, about
WIDTH = 128  # of what is compared
DECAY = 0.9  # of a pair's weight, for each item that was liked between the two


def follow_counts(lists: Lists, items: int) -> sp.csr_array:
    """How often each item (column) was the positive of a list whose history holds another (row), DECAY^k with k others
    between them: (items, items), float32."""
    histories = [lists.history(number)[::-1] for number in range(len(lists))]
    length = np.array([len(history) for history in histories])
    decay = DECAY ** np.arange(length.max(), dtype=np.float32)
    weights = np.concatenate([decay[:n] for n in length])
    positives = np.concatenate(lists.candidates)[lists.labels() == 1]
    return sp.csr_array((weights, (np.concatenate(histories), np.repeat(positives, length))), shape=(items, items))


def draw(counts: sp.csr_array, rng: np.random.Generator) -> np.ndarray:
    """The items to compare, ITEMS at most: half of them at random among those that any follows, so that rare ones are
    learned as well, and one follower of each, so that there is something to learn in a large catalogue too."""
    followed = np.flatnonzero(np.diff(counts.indptr))
    earlier = rng.permutation(followed)[: ITEMS // 2]
    rows = [slice(*counts.indptr[item : item + 2]) for item in earlier]
    later = [rng.choice(counts.indices[row], p=counts.data[row] / counts.data[row].sum()) for row in rows]
    return np.unique(np.concatenate([earlier, later]))


def follow_loss(affinity: torch.Tensor, counts: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of which of n items follows another: the softmax, over all others, of `affinity` (n, n) plus the
    log of their `frequency` (n,), which the states are not to learn, as it does not tell a positive from negatives
    that are drawn by popularity. counts (n, n); what an item does beside itself does not count."""
    itself = torch.eye(len(counts), dtype=torch.bool, device=counts.device)
    logits = (affinity + frequency.log()).masked_fill(itself, torch.finfo(affinity.dtype).min)
    counts = counts.masked_fill(itself, 0)
    return -(counts * logits.log_softmax(1)).sum() / counts.sum()


def learn_items(
    scorer: Scorer,
    lists: Lists,
    prompts: Prompts,
    steps: int,
    schedule: Schedule,
    checkpoint: Checkpoint,
    log: Callable[[dict[str, float], int], None],
    seed: int,
) -> None:
    """Trains what requires a gradient in `scorer`, cut to the layers that are to learn it, by `follow_loss` over seeded
    draws of items. The two linear maps that compare its states are dropped at the end. Raises UserError where no item
    follows another in these lists."""
    catalogue = len(prompts.candidate)
    counts = follow_counts(lists, catalogue)
    if not counts.nnz:
        raise UserError(
            "teacher.adapt.item_steps: expected training lists with a history, to learn which items follow which, got "
            "none; set it to 0"
        )
    frequency = torch.from_numpy(counts.sum(axis=0) + 1)  # (items,)
    forms = replace(prompts, candidate=prompts.candidate + prompts.history)
    torch.manual_seed(seed)
    width, device = scorer.model.config.hidden_size, scorer.model.device
    maps = nn.ModuleList(nn.Linear(width, WIDTH, bias=False) for _ in range(2)).to(device)
    rng = np.random.default_rng(seed)
    plan = [draw(counts, rng) for _ in range(steps)]

    def packed(items: np.ndarray) -> PackedBatch:
        """Each of these items as a candidate, then each as a part of a history, behind the prefix alone."""
        pieces = np.concatenate([items, items + catalogue])
        tokens = sum(len(forms.candidate[piece]) for piece in pieces)
        rows = np.array_split(pieces, -(-tokens // TOKENS))
        alone = make_lists(dict.fromkeys(COLUMNS, np.zeros(len(rows), np.int64)), rows, [np.empty(0, np.int64)])
        return scorer.pack(alone, list(np.arange(len(rows))[:, None]), forms)

    def loss(items: np.ndarray, step: int):
        batch = packed(items)
        _, states = scorer(batch, with_hidden_states=True)
        later, earlier = unit_rms(states[:, -1]).chunk(2)  # (n, d) each
        affinity = maps[0](earlier) @ maps[1](later).T / WIDTH**0.5
        followed = torch.from_numpy(counts[items][:, items].toarray())
        return follow_loss(affinity, followed.to(device), frequency[items].to(device)), {}, batch.tokens

    module = nn.ModuleDict({"scorer": scorer, "maps": maps})
    fit(module, plan, loss, None, schedule, checkpoint, log, f"learning items with {len(scorer.layers)} layers")
