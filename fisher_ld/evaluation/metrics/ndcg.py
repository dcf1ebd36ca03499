"""NDCG@k (Järvelin and Kekäläinen 2002) with one positive, whose ideal DCG is 1: 1 / log2(rank + 1) within the first k.
Chance in a list of n: the sum of 1 / log2(r + 1) over r <= min(k, n), divided by n."""

from __future__ import annotations

import numpy as np

from fisher_ld.evaluation.metrics.ties import Ranking


def ndcg(ranking: Ranking, k: int) -> np.ndarray:
    """(n,) in 0..1."""
    return ranking.expected(lambda ranks: 1 / np.log2(ranks + 1) * (ranks <= k))
