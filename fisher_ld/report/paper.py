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
    "attention-transfer": Row(0.734, 0.712, 0.701, 0.568, 398, 4.4, 768, 151),
    "fitnets": Row(0.728, 0.706, 0.695, 0.562, 392, 4.3, 768, 153),
    "progressive": Row(0.741, 0.719, 0.708, 0.574, 401, 4.5, 768, 149),
    "tinybert": Row(0.739, 0.716, 0.705, 0.571, 395, 4.4, 768, 152),
    "minilm": Row(0.743, 0.721, 0.710, 0.576, 403, 4.6, 768, 148),
    "fisher-ld": Row(0.779, 0.758, 0.731, 0.603, 387, 4.1, 768, 158),
}
TABLE_III = {  # ours -> name there, NDCG@5, MRR; "Fisher-based" has the numbers of Table X's full method
    "uniform": ("Uniform", 0.721, 0.689),
    "linear": ("Linear Depth", 0.754, 0.712),
    "exponential": ("Exponential Depth", 0.762, 0.718),
    "attention": ("Attention-based", 0.758, 0.715),
    "fisher-ld": ("Fisher-based (full Fisher-LD, as in Table X)", 0.779, 0.731),
}
TABLE_VIII = {  # ratio teacher / Fisher-LD -> improvement, by the name of our ratio
    "latency_p50": ("forward pass", 3.18),
    "peak_memory": ("peak memory", 6.95),
    "gpu_utilisation": ("GPU utilisation", 4.26),
    "energy": ("energy", 3.22),
}
TABLE_X = {  # ours -> name there, NDCG@5, MRR
    "fisher-ld": ("full Fisher-LD", 0.779, 0.731),
    "fisher": ("without dynamic weights", 0.762, 0.718),
    "uniform": ("uniform baseline", 0.721, 0.689),
}
RETAINED = 0.92
REDUCTIONS = {"abstract": 0.75, "section V-E": 0.904}
SPEEDUP, THROUGHPUT = 3.2, 12.6
UPPER_OVER_LOWER = 2.4
TOP_LAYERS = (28, 29, 30)
GAINS = {"ndcg_5": 0.051, "mrr": 0.032}  # over uniform distillation
COHENS_D = {"ndcg_5": 0.89, "mrr": 0.76}  # of these gains
P_GAINS = 0.001  # of these gains
P_ALL = 0.01  # of all comparisons in Table I
# What nothing here measures yet and Table I does not hold: tables as (table, columns, row -> its numbers), then what
# the text says.
TABLES_ELSEWHERE: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "Table II", "NDCG@5, MRR, transfer gap, consistency",
        {"Uniform KD": "0.653 0.612 -10.4% 0.72", "Progressive KD": "0.668 0.627 -9.7% 0.75",
         "FISHER-LD": "0.694 0.651 -7.8% 0.83"},
    ),
    (
        "Table IV", "parameters, NDCG@5, compression, speedup, memory",
        {"Tiny, Uniform KD": "196M 0.658 97.5% 6.8x 1.8GB", "Tiny, FISHER-LD": "196M 0.702 97.5% 6.8x 1.7GB",
         "Micro, Uniform KD": "98M 0.587 98.8% 11.2x 1.1GB", "Micro, FISHER-LD": "98M 0.623 98.8% 11.2x 1.0GB"},
    ),
    (
        "Table V", "users, items, NDCG@5, its baseline's",
        {"Beauty": "22K 12K 0.779 0.721", "Books": "86K 65K 0.771 0.718", "Electronics": "45K 28K 0.764 0.714",
         "Movies": "123K 51K 0.758 0.709"},
    ),
    (
        "Table VI", "NDCG@5, parameters, speedup, memory",
        {"DistilBERT": "0.695 768M 2.8x 4.8GB", "TinyBERT": "0.739 768M 3.1x 4.4GB", "MiniLM": "0.743 768M 3.0x 4.6GB",
         "LayerDrop": "0.724 768M 3.4x 4.0GB", "StructBERT": "0.746 768M 2.9x 4.7GB",
         "PKD-BERT": "0.751 768M 3.1x 4.5GB"},
    ),
    (
        "Table VIII", "teacher's, uniform KD's, FISHER-LD's",
        {"GPU utilisation, %": "98 24 23", "energy, Wh/1K queries": "2.45 0.78 0.76"},
    ),
    (
        "Table IX", "level, NDCG@5 lost, recovery in steps",
        {"Gaussian input": "0.1 2.3% 150", "weight perturbation": "5% 1.8% 200", "gradient noise": "10% 3.1% 180",
         "Fisher estimation": "20% 1.2% 100"},
    ),
    (
        "Table X", "training hours, GB",
        {"full Fisher-LD": "5.1 15.6", "without dynamic weights": "4.6 14.8", "uniform baseline": "3.4 12.3"},
    ),
    (
        "Table X", "NDCG@5, MRR, training hours, GB",
        {"without semantic emphasis": "0.759 0.715 4.8 15.2", "without Fisher sampling": "0.741 0.703 7.2 18.4",
         "without layer matching": "0.734 0.701 4.2 14.1"},
    ),
)  # fmt: skip
TEXT_ELSEWHERE = (
    ("Table VII", "one user's first five items, of teacher, uniform KD and FISHER-LD", "fifteen titles"),
    ("Table III", "attention-based: parameters, speedup", "768M, 3.1x"),
    ("section V-A", "over the strongest baseline, MiniLM: NDCG@5, MRR", "+4.8%, +3.0%"),
    ("section V-A, Table I", "over the five other methods, all metrics: p", "< 0.01"),
    ("section V-B, Fig. 1", "upper over lower layers: Electronics, Books, Beauty", "3.2x, 2.8x, 2.1x"),
    ("section V-D, Fig. 2", "best beta", "0.3"),
    ("section V-E", "faster convergence than uniform KD; less memory", "2.1x; 85.6%"),
    (
        "section V-F",
        "quality lost: cold start, long tail, across categories, after six months",
        "8.3%, 12.1%, 6.7%, 4.2%",
    ),
    ("section V-F, Fig. 3", "Fisher values stable after epochs; their variance, upper and lower", "15; 0.08, 0.23"),
    ("section V-F, Fig. 3", "their stability, correlated with performance", "r = 0.87"),
    ("section V-H, Fig. 4", "CKA with the teacher: FISHER-LD, uniform", "0.84, 0.76"),
    ("section V-I", "explanations judged by people, of 5, FISHER-LD", "4.2, 4.3, 4.1, 4.2"),
    ("section V-I", "the same of uniform KD", "3.7, 3.8, 3.6, 3.7"),
    ("section V-J", "spread over five folds", "0.008"),
    ("section VII-A", "impact of removing upper over lower layers", "3.2x"),
    ("section VII-B", "training: Fisher's share of time, of memory; net time", "+12%, +8%; -35%"),
    ("section VII-C", "where it is robust: T, beta, eta", "3.5 to 4.5, 0.2 to 0.4, 0.01 to 0.1"),
    ("section VII-C", "Fisher samples that suffice", "10K"),
    ("section VII-D", "gain at 4 to 16 layers", "4% to 6%"),
    ("section IX-B", "quality kept across domains", "91.2%"),
    ("section IX-C, IX-F", "less cost, energy, carbon", "85%, 78%, 85%"),
    ("section X", "less serving cost; users in tests online", "95%, 10M"),
)

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
