"""Inverse popularity: the less liked an item, the higher. Lists in which it does well have negatives that are more
popular than their positives."""

from __future__ import annotations

from fisher_ld.evaluation.baselines.interactions import Interactions
from fisher_ld.evaluation.baselines.popularity import Popularity


class InversePopularity(Popularity):
    @classmethod
    def fit(cls, likes: Interactions) -> InversePopularity:
        return cls(-likes.count)
