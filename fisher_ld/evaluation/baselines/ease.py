"""EASE (Steck 2019, "Embarrassingly shallow autoencoders for sparse data"): the item-to-item weights with a zero
diagonal that best reconstruct the likes, in closed form: B = I - P / diag(P), P = (X'X + ridge I)^-1. Older likes count
less."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from scipy.linalg import inv

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.baselines.histories import score_by_history
from fisher_ld.evaluation.baselines.interactions import Interactions
from fisher_ld.evaluation.baselines.tuning import Grid

LARGEST = 6_000  # items with weights: B is dense, and its time grows with the cube


@dataclass(frozen=True)
class Ease:
    GRID: ClassVar[Grid] = {"ridge": (1000.0, 3000.0, 300.0, 100.0), "decay": (0.9, 0.8, 1.0)}
    chosen: sp.csr_array  # (items, m) 0 or 1: the item of each row and column of the weights
    weights: np.ndarray  # (m, m) B
    decay: float

    @classmethod
    def fit(cls, likes: Interactions, ridge: float, decay: float) -> Ease:
        return cls(*ease_weights(likes, ridge), decay)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return score_by_history(lists, self.decay, self.chosen, self.weights, self.chosen.T)


@lru_cache(maxsize=1)
def ease_weights(likes: Interactions, ridge: float, largest: int = LARGEST) -> tuple[sp.csr_array, np.ndarray]:
    """`chosen` and `weights` of the liked items. Of more than `largest` the most liked are kept, which is printed; the
    others score 0."""
    liked = np.flatnonzero(likes.count)
    if len(liked) > largest:
        print(f"EASE: {len(liked)} items are liked; the {largest} most liked have weights, the others score 0")
        liked = np.sort(liked[np.argsort(-likes.count[liked], kind="stable")[:largest]])
    size = len(liked)
    chosen = sp.csr_array((np.ones(size, np.float32), (liked, np.arange(size))), shape=(likes.shape[1], size))
    x = sp.csr_array(likes.matrix @ chosen)
    gram = (x.T @ x).toarray()
    gram[np.diag_indices(size)] += ridge
    inverse = inv(gram, overwrite_a=True, assume_a="pos")
    inverse /= -np.diag(inverse).copy()  # by column
    np.fill_diagonal(inverse, 0)
    return chosen, inverse
