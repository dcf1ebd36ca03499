"""The metrics: a row each. From here come their names in files, their labels, and how they are computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np

from fisher_ld.evaluation.metrics.auc import auc
from fisher_ld.evaluation.metrics.diversity import diversity
from fisher_ld.evaluation.metrics.hit import hit
from fisher_ld.evaluation.metrics.mrr import reciprocal_rank
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import Ranking


@dataclass(frozen=True)
class Metric:
    label: str  # in tables and pictures
    of: Callable[[Ranking], np.ndarray]  # its value for each list; nan where a list has none


METRICS: Mapping[str, Metric] = {
    "ndcg_5": Metric("NDCG@5", partial(ndcg, k=5)),
    "ndcg_10": Metric("NDCG@10", partial(ndcg, k=10)),
    "mrr": Metric("MRR", reciprocal_rank),
    "hit_5": Metric("Hit@5", partial(hit, k=5)),
    "hit_10": Metric("Hit@10", partial(hit, k=10)),
    "auc": Metric("AUC", auc),
    "diversity_10": Metric("diversity@10", partial(diversity, k=10)),
}
PRIMARY = "ndcg_10"  # of validation, gate, comparisons and retained share
