"""Ranking metrics of candidate lists with one positive each, and their closed-form chance values.

Ties. Candidates with equal scores stand in random order: every metric is its **expectation** over the ranks of the
positive's tied block, which are equally likely. A constant scorer ties the whole list, so that it scores exactly
chance, whatever the positive's place. The mean rank of the block is the expectation of the rank itself; AUC is linear
in the rank, so that for AUC both rules are one. For the others the mean rank put into the metric would not do: in a
list of 20 a constant scorer has mean rank 10.5, hence Hit@10 0, where chance is 0.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

METRICS = ("ndcg_5", "ndcg_10", "mrr", "hit_5", "hit_10", "auc", "diversity_10")
TOP = 10  # list length of the diversity


def _gains(ranks: np.ndarray) -> dict[str, np.ndarray]:
    """What the positive at each rank (1 = best) is worth; the ideal DCG of one positive is 1."""
    discount = 1 / np.log2(ranks + 1)
    return {
        "ndcg_5": discount * (ranks <= 5),
        "ndcg_10": discount * (ranks <= 10),
        "mrr": 1 / ranks,
        "hit_5": (ranks <= 5).astype(float),
        "hit_10": (ranks <= 10).astype(float),
    }


def _expected(better: np.ndarray, tied: np.ndarray, size: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of positives that are equally likely at each of the ranks better + 1 .. better + tied."""
    longest = int(size.max(initial=1))
    result = {}
    for name, gain in _gains(np.arange(1, longest + 1)).items():
        total = np.concatenate([[0.0], np.cumsum(gain)])  # total[r]: sum of the gains of ranks 1..r
        result[name] = (total[better + tied] - total[better]) / tied
    mean_rank = better + (tied + 1) / 2
    with np.errstate(invalid="ignore"):
        result["auc"] = (size - mean_rank) / (size - 1)  # nan where the list has no negative
    return result


def _flatten(scores: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """All scores in one array, the first place of each list, and the lists' sizes."""
    size = np.array([len(s) for s in scores], dtype=np.int64)
    if len(size) == 0 or size.min() == 0:
        raise ValueError(f"expected at least one list and no empty one, got {len(size)} lists of sizes {set(size)}")
    flat = np.concatenate(scores)
    if not np.isfinite(flat).all():
        bad = np.repeat(np.arange(len(size)), size)[~np.isfinite(flat)]
        raise ValueError(f"expected finite scores, got {len(bad)} that are not, the first in list {bad[0]}")
    return flat, np.cumsum(size) - size, size


def ranking_metrics(scores: Sequence[np.ndarray], positive: np.ndarray) -> dict[str, np.ndarray]:
    """NDCG@5, NDCG@10, MRR, Hit@5, Hit@10 and AUC of n lists, each (n,) float64.

    `scores`: one array a list, higher is better. `positive`: (n,) the positive's place in each. AUC is nan for a list
    without negatives. Raises ValueError on an empty list and on scores that are not finite.
    """
    flat, first, size = _flatten(scores)
    if len(positive) != len(size) or (positive < 0).any() or (positive >= size).any():
        raise ValueError(f"expected a place within each of {len(size)} lists, got {len(positive)} places: {positive}")
    own = np.repeat(flat[first + positive], size)
    better = np.add.reduceat((flat > own).astype(np.int64), first)
    tied = np.add.reduceat((flat == own).astype(np.int64), first)  # the positive among them
    return _expected(better, tied, size)


def chance(size: int) -> dict[str, float]:
    """Expected metrics of a list of `size` candidates in random order (nothing for diversity, which depends on the
    items): Hit@k = min(k, n) / n, NDCG@k = sum of 1 / log2(r + 1) over r <= min(k, n), / n, MRR = H_n / n, AUC = 1/2.
    """
    one, whole = np.zeros(1, dtype=np.int64), np.array([size])
    return {name: float(value[0]) for name, value in _expected(one, whole, whole).items()}


def category_matrix(categories: Sequence[Sequence[str]]) -> sp.csr_array:
    """Items x categories, 1 where an item has the category. Index: item number."""
    names = {name: i for i, name in enumerate(sorted({c for item in categories for c in item}))}
    rows = [item for item, own in enumerate(categories) for _ in set(own)]
    columns = [names[c] for own in categories for c in set(own)]
    return sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(categories), max(1, len(names))))


def _inclusion(scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates are sure to be among the `top` best, and which tie for the last places: (m, n) bool each."""
    bar = -np.partition(-scores, top - 1, axis=1)[:, top - 1 : top]  # (m, 1) the last score that gets in
    return scores > bar, scores == bar


def diversity(scores: Sequence[np.ndarray], candidates: Sequence[np.ndarray], categories: sp.csr_array) -> np.ndarray:
    """Intra-list diversity: the mean Jaccard distance between the category sets of the 10 best candidates (of all, in
    a shorter list), (n,). Expectation over the order of ties, so that constant scores give the mean over all pairs of
    the list, which is its chance value. Two items without categories have distance 0. nan for a list of one.
    """
    _, _, size = _flatten(scores)
    result = np.full(len(size), np.nan)
    for n in np.unique(size[size > 1]):
        top = min(TOP, int(n))
        same_size = np.flatnonzero(size == n)
        for chunk in np.array_split(same_size, 1 + len(same_size) // 64):
            if not len(chunk):
                continue
            items = np.concatenate([candidates[i] for i in chunk])
            sets = categories[items].toarray().reshape(len(chunk), n, -1)  # (m, n, categories)
            both = sets @ sets.transpose(0, 2, 1)  # (m, n, n)
            count = sets.sum(2)
            either = count[:, :, None] + count[:, None, :] - both
            distance = np.where(either > 0, 1 - both / np.maximum(either, 1), 0).astype(float)
            distance[:, np.arange(n), np.arange(n)] = 0
            sure, tie = (x.astype(float) for x in _inclusion(np.stack([scores[i] for i in chunk]), top))

            def pairs(a: np.ndarray, b: np.ndarray, distance: np.ndarray = distance) -> np.ndarray:
                return np.einsum("mi,mij,mj->m", a, distance, b)  # ordered pairs, (m,)

            tied = tie.sum(1)
            free = top - sure.sum(1)  # places left for the tied block, >= 1
            one = free / tied  # chance of a tied candidate
            two = one * (free - 1) / np.maximum(tied - 1, 1)  # of a given pair of them
            total = pairs(sure, sure) + 2 * one * pairs(sure, tie) + two * pairs(tie, tie)
            result[chunk] = total / (top * (top - 1))
    return result
