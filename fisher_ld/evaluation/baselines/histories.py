"""What most rivals share: candidates are scored by what each liked item says of them, older likes less."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists, take

BLOCK = 512  # lists at a time: a block has a score for every item


def history_weights(lists: Lists, n_items: int, decay: float) -> sp.csr_array:
    """(lists, items): 1 for the last liked item of each list, for each older one `decay` times that of the next."""
    histories = [lists.history(number) for number in range(len(lists))]
    ends = np.cumsum([len(history) for history in histories])
    age = np.repeat(ends, [len(history) for history in histories]) - 1 - np.arange(ends[-1])
    items = np.concatenate(histories)
    return sp.csr_array((decay**age, items, np.concatenate([[0], ends])), shape=(len(lists), n_items))


def score_by_history(lists: Lists, decay: float, relation: Any, *further: Any) -> list[np.ndarray]:
    """One array of scores a list, in the order of its candidates: its row of `history_weights` times `relation`, whose
    entry (i, j) is what liking i says of j, or times the factors of that matrix, sparse or dense."""
    scores: list[np.ndarray] = []
    for begin in range(0, len(lists), BLOCK):
        block = take(lists, np.arange(begin, min(begin + BLOCK, len(lists))))
        rows = history_weights(block, relation.shape[0], decay).astype(relation.dtype)  # else all factors are cast
        for factor in (relation, *further):
            rows = rows @ factor
        dense = rows.toarray() if sp.issparse(rows) else np.asarray(rows)  # (block, items)
        scores += [row[candidates] for row, candidates in zip(dense, block.candidates, strict=True)]
    return scores
