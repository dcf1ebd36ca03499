"""The paper's numbers, as printed in it, and the arithmetic that says which of them cannot be."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

LAYERS = 32  # of the paper's teacher


@dataclass(frozen=True)
class Row:
    """One method in Table I: quality, milliseconds, GB, million parameters, queries a second."""

    ndcg_5: float
    ndcg_10: float
    mrr: float
    hit_5: float
    latency_ms: float
    memory_gb: float
    size_m: float
    queries_per_second: float


TABLE_I = {
    "teacher": Row(0.847, 0.823, 0.792, 0.634, 1230, 28.5, 8000, 12.5),
    "uniform": Row(0.721, 0.698, 0.689, 0.552, 385, 4.2, 768, 156),
    "fisher-ld": Row(0.779, 0.758, 0.731, 0.603, 387, 4.1, 768, 158),
}
TABLE_III = {  # strategy -> NDCG@5, MRR
    "uniform": (0.721, 0.689),
    "linear": (0.754, 0.712),
    "exponential": (0.762, 0.718),
    "attention": (0.758, 0.715),
    "fisher": (0.779, 0.731),
}
MICRO_UNIFORM_NDCG_5 = 0.587  # Table IV
ELSEWHERE = (  # one number of each table that has no experiment here yet
    ("Table II", "Amazon to MovieLens, Fisher-LD: NDCG@5", "0.694"),
    ("Table V", "Books, Fisher-LD: NDCG@5", "0.771"),
    ("Table VI", "best of the other compression methods: NDCG@5", "0.751"),
    ("Table VII", "one user's first five items", "five titles"),
    ("Table IX", "Gaussian noise on the input: NDCG@5 lost", "2.3%"),
    ("Table X", "without layer matching: NDCG@5", "0.734"),
)
TABLE_VIII = {  # ratio teacher / Fisher-LD -> improvement, by the name of our ratio
    "latency_p50": ("forward pass", 3.18),
    "peak_memory": ("peak memory", 6.95),
    "gpu_utilisation": ("GPU utilisation", 4.26),
    "energy": ("energy", 3.22),
}
TABLE_X = {  # ours -> name there, NDCG@5
    "fisher-ld": ("full Fisher-LD", 0.779),
    "fisher": ("without dynamic weights", 0.762),
    "uniform": ("uniform baseline", 0.721),
}
RETAINED = 0.92
REDUCTIONS = {"abstract": 0.75, "section V-E": 0.904}
SPEEDUP, THROUGHPUT = 3.2, 12.6
UPPER_OVER_LOWER = 2.4
TOP_LAYERS = (28, 29, 30)
GAINS = {"ndcg_5": 0.051, "mrr": 0.032}  # over uniform distillation

SIZE_REASON = "768M does not follow from 12 layers of width 768"
REDUCTION_REASON = "75% and 90.4% are both claimed of one student, and " + SIZE_REASON
REPOSITORY_NOTE = "The authors' own public repository reports results that contradict the paper's headline."


def chance_ndcg_5(candidates: int) -> float:
    """NDCG@5 of a random order with one positive."""
    return sum(1 / math.log2(rank + 1) for rank in range(1, min(5, candidates) + 1)) / candidates


def impossible(values: Mapping[str, float]) -> dict[str, str]:
    """metric -> why it cannot be, for means over lists with one positive each: at rank r the list is worth
    1 / log2(r + 1) within the cut of NDCG, 1 / r of MRR, and 1 within the cut of Hit. So NDCG@5 is at most Hit@5 and at
    most NDCG@10, and what lies below rank 5 adds at most 1 / log2(7) to NDCG@10 and 1 / 6 to MRR."""
    ndcg_5, ndcg_10, mrr, hit_5 = (values[m] for m in ("ndcg_5", "ndcg_10", "mrr", "hit_5"))
    most = {"ndcg_10": hit_5 + (1 - hit_5) / math.log2(7), "mrr": hit_5 + (1 - hit_5) / 6}
    found: dict[str, str] = {}
    if ndcg_5 > hit_5:
        reason = f"impossible with one positive a list: NDCG@5 {ndcg_5} is above Hit@5 {hit_5}"
        found |= {"ndcg_5": reason, "hit_5": reason}
    if ndcg_5 > ndcg_10:
        reason = f"impossible with one positive a list: NDCG@5 {ndcg_5} is above NDCG@10 {ndcg_10}"
        found |= {"ndcg_5": found.get("ndcg_5", reason), "ndcg_10": reason}
    if mrr > most["mrr"]:
        found["mrr"] = f"impossible with one positive a list: Hit@5 {hit_5} allows an MRR of {most['mrr']:.3f} at most"
    if ndcg_10 > most["ndcg_10"] and "ndcg_10" not in found:
        found["ndcg_10"] = f"impossible with one positive a list: Hit@5 {hit_5} allows {most['ndcg_10']:.3f} at most"
    return found
