"""Hit@k: whether the positive is among the first k. Chance in a list of n: min(k, n) / n."""

from __future__ import annotations

import numpy as np

from fisher_ld.evaluation.metrics.ties import Ranking


def hit(ranking: Ranking, k: int) -> np.ndarray:
    """(n,), a tie across the k-th place gives a fraction."""
    return ranking.expected(lambda ranks: (ranks <= k).astype(float))
