"""What items go together, read from their texts alone before any prompt: the teacher's first layers learn states of
items whose products say which of them are liked soon after which.

A prompt teaches that through a yes or no for each candidate, one pair of a history and an item at a time. Here some
hundred items are compared with each other at once, in the forms that prompts have: what ends an item of the history,
and the decision token behind a candidate.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch
from torch import nn

from fisher_ld.data.lists import Lists
from fisher_ld.data.packing import PackedBatch
from fisher_ld.data.prompts import Prompts
from fisher_ld.models.scorer import Scorer, unit_rms
from fisher_ld.runtime import Checkpoint
from fisher_ld.training import Schedule, fit

ITEMS = 256  # compared at once
PIECES = 43  # of one packed row: rows of some 500 tokens
WIDTH = 128  # of what is compared
DECAY = 0.9  # of a pair's weight, for each item that was liked between the two


def followers(lists: Lists, items: int) -> sp.csr_array:
    """How often each item was liked after another within a history of these lists, DECAY^k with k others between:
    (items, items), float32, row: the earlier one."""
    histories = [lists.history(number)[::-1] for number in range(len(lists))]
    length = [len(history) for history in histories]
    positives = np.array([c[place] for c, place in zip(lists.candidates, lists.positive, strict=True)])
    weights = np.concatenate([DECAY ** np.arange(n, dtype=np.float32) for n in length])
    places = np.concatenate(histories), np.repeat(positives, length)
    return sp.csr_array(sp.coo_array((weights, places), shape=(items, items)))


def draw(pairs: sp.csr_array, rng: np.random.Generator) -> np.ndarray:
    """Up to ITEMS items to compare: half of them at random, so that rare ones are learned as well, and for each of
    these one that followed it, so that there is something to learn in a large catalogue too."""
    items = rng.permutation(len(pairs.indptr) - 1)[: ITEMS // 2]
    following = [
        rng.choice(pairs.indices[begin:end], p=pairs.data[begin:end] / pairs.data[begin:end].sum())
        for begin, end in zip(pairs.indptr[items], pairs.indptr[items + 1], strict=True)
        if begin < end
    ]
    return np.unique(np.concatenate([items, np.array(following, items.dtype)]))


def pair_loss(affinity: torch.Tensor, pairs: torch.Tensor, frequency: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of which of n items follows another, with the softmax over all n of their `affinity` (n, n) plus
    their log `frequency` (n,), which is not for the states to learn: negatives are drawn by it. `pairs` (n, n)
    counts; an item does not follow itself."""
    itself = torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)
    logits = (affinity + frequency.log()).masked_fill(itself, float("-inf"))
    pairs = pairs.masked_fill(itself, 0)
    expected = torch.where(pairs > 0, pairs * logits.log_softmax(1), 0).sum()
    return -expected / pairs.sum().clamp(min=1)


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
    """Trains what requires a gradient in `scorer`, cut to the layers that are to learn it, by `pair_loss` over seeded
    draws of ITEMS items. The two linear maps that compare its states are dropped at the end."""
    count = len(prompts.candidate)
    pairs = followers(lists, count)
    frequency = torch.from_numpy(pairs.sum(axis=0) + 1)  # (items,)
    forms = replace(prompts, candidate=prompts.candidate + prompts.history)
    torch.manual_seed(seed)
    width, device = scorer.model.config.hidden_size, scorer.model.device
    maps = nn.ModuleList(nn.Linear(width, WIDTH, bias=False) for _ in range(2)).to(device)
    rng = np.random.default_rng(seed)
    plan = [draw(pairs, rng) for _ in range(steps)]

    def packed(items: np.ndarray) -> PackedBatch:
        """Each of these items as a candidate, then each as a part of a history, behind the prefix alone."""
        rows = np.array_split(np.concatenate([items, items + count]), -(-2 * len(items) // PIECES))
        nothing = np.zeros(len(rows), np.int64)
        offsets = np.cumsum([0, *map(len, rows)])
        alone = Lists(nothing, nothing, nothing, nothing, rows, offsets, [np.empty(0, np.int64)])
        return scorer.pack(alone, [np.array([row]) for row in range(len(rows))], forms)

    def loss(items: np.ndarray, step: int):
        batch = packed(items)
        _, states = scorer(batch, with_hidden_states=True)
        after, before = unit_rms(states[:, -1]).chunk(2)  # (n, d) each
        affinity = maps[0](before) @ maps[1](after).T / WIDTH**0.5
        followed = torch.from_numpy(pairs[items][:, items].toarray())
        total = pair_loss(affinity, followed.to(device), frequency[items].to(device))
        return total, {}, batch.tokens

    module = nn.ModuleDict({"scorer": scorer, "maps": maps})
    fit(module, plan, loss, None, schedule, checkpoint, log, f"learning items with {len(scorer.layers)} layers")
