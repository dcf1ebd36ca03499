"""Item-kNN: a candidate's score is its cosine similarity to the user's earlier likes, summed over those among the
candidate's k nearest neighbours (Sarwar et al. 2001, binary), older likes less."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.baselines.histories import score_by_history
from fisher_ld.evaluation.baselines.interactions import Interactions
from fisher_ld.evaluation.baselines.tuning import Grid


@dataclass(frozen=True)
class ItemKNN:
    GRID: ClassVar[Grid] = {"neighbours": (200, 100, 50, 400), "decay": (0.9, 0.8, 1.0)}
    similar: sp.csr_array  # (items, items): column j holds the similarities of j's nearest, never j itself
    decay: float

    @classmethod
    def fit(cls, likes: Interactions, neighbours: int, decay: float) -> ItemKNN:
        return cls(sp.csr_array(nearest(likes, neighbours).T), decay)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return score_by_history(lists, self.decay, self.similar)


@lru_cache(maxsize=1)
def nearest(likes: Interactions, neighbours: int, block: int = 1024) -> sp.csr_array:
    """(items, items): row i holds the cosine similarities of i's nearest `neighbours`. Of equally similar ones the
    smaller (shuffled) item number is kept. Similarities are formed `block` items at a time."""
    length = np.sqrt(likes.count)
    n_items = len(length)
    by_item = sp.csr_array(likes.matrix.T)
    kept = []
    for begin in range(0, n_items, block):
        shared = sp.coo_array(by_item[begin : begin + block] @ likes.matrix)  # users who like both
        row, column = shared.coords[0] + begin, shared.coords[1]
        other = row != column
        row, column = row[other], column[other]
        value = shared.data[other] / (length[row] * length[column])
        order = np.lexsort((column, -value, row))
        row, column, value = row[order], column[order], value[order]
        near = np.arange(len(row)) - np.searchsorted(row, row) < neighbours  # place within its row
        kept.append((row[near], column[near], value[near]))
    row, column, value = (np.concatenate(part) for part in zip(*kept, strict=True))
    return sp.csr_array((value, (row, column)), shape=(n_items, n_items))
