"""Reciprocal rank of the positive; its mean is MRR. Chance in a list of n: H_n / n."""

from __future__ import annotations

import numpy as np

from fisher_ld.evaluation.metrics.ties import Ranking


def reciprocal_rank(ranking: Ranking) -> np.ndarray:
    """(n,) in 0..1."""
    return ranking.expected(lambda ranks: 1 / ranks)
