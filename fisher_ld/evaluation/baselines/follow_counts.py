"""Follow counts: a candidate's score is how often it came within `reach` places after each of the user's earlier likes,
over its popularity to a power; older likes count less."""

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
class FollowCounts:
    GRID: ClassVar[Grid] = {"reach": (10, 3, 1), "power": (0.5, 1.0), "decay": (0.9, 0.7)}
    follows: sp.csr_array  # (items, items): how often j came after i, over j's popularity to the power
    decay: float

    @classmethod
    def fit(cls, likes: Interactions, reach: int, power: float, decay: float) -> FollowCounts:
        rarity = np.maximum(likes.count, 1.0) ** -power
        return cls(sp.csr_array(follow_counts(likes, reach) * rarity[None]), decay)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return score_by_history(lists, self.decay, self.follows)


@lru_cache(maxsize=1)
def follow_counts(likes: Interactions, reach: int) -> sp.csr_array:
    """(items, items): how often j stands 1 to `reach` places after i in a run of likes."""
    run = likes.repeat(np.arange(len(likes.runs)))
    first: list[np.ndarray] = []
    then: list[np.ndarray] = []
    for apart in range(1, reach + 1):
        same = run[apart:] == run[:-apart]
        first.append(likes.flat[:-apart][same])
        then.append(likes.flat[apart:][same])
    pairs = np.concatenate(first), np.concatenate(then)
    n_items = likes.shape[1]
    return sp.csr_array((np.ones(len(pairs[0])), pairs), shape=(n_items, n_items))
