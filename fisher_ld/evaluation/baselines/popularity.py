"""Popularity: a candidate's score is the number of users who like it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.baselines.interactions import Interactions
from fisher_ld.evaluation.baselines.tuning import Grid


@dataclass(frozen=True)
class Popularity:
    GRID: ClassVar[Grid] = {}
    count: np.ndarray  # (items,)

    @classmethod
    def fit(cls, likes: Interactions) -> Popularity:
        return cls(likes.count)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return [self.count[candidates] for candidates in lists.candidates]
