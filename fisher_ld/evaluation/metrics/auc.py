"""AUC of a list: the share of its negatives that stand below the positive, a tie counted half. Chance: 1/2."""

from __future__ import annotations

import numpy as np

from fisher_ld.evaluation.metrics.ties import Ranking


def auc(ranking: Ranking) -> np.ndarray:
    """(n,), nan for a list without negatives."""
    mean_rank = ranking.better + (ranking.tied + 1) / 2
    with np.errstate(invalid="ignore"):
        return (ranking.size - mean_rank) / (ranking.size - 1)
