"""Intra-list diversity: the mean Jaccard distance between the category sets of the k best candidates.

The expectation is over the order of ties, as everywhere, so that constant scores give the mean over all pairs of the
list, which is its chance value.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from fisher_ld.evaluation.metrics.ties import Ranking


def category_matrix(categories: Sequence[Sequence[str]]) -> sp.csr_array:
    """Items x categories, 1 where an item has the category. Index: item number."""
    names = {name: i for i, name in enumerate(sorted({c for item in categories for c in item}))}
    rows = [item for item, of_item in enumerate(categories) for _ in set(of_item)]
    columns = [names[c] for of_item in categories for c in set(of_item)]
    return sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(categories), max(1, len(names))))


def _inclusion(scores: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
    """Which candidates are sure to be among the `top` best, and which tie for the last places: (m, n) bool each."""
    bar = -np.partition(-scores, top - 1, axis=1)[:, top - 1 : top]  # (m, 1) the last score that gets in
    return scores > bar, scores == bar


def _pairs(a: np.ndarray, distance: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Sum of the distances of all ordered pairs, weighted by `a` (m, n) and `b` (m, n): (m,)."""
    return np.einsum("mi,mij,mj->m", a, distance, b)


def _distances(sets: np.ndarray) -> np.ndarray:
    """Jaccard distances between the category sets (m, n, categories) of the candidates of each list: (m, n, n). Two
    items without categories have distance 0, as an item has to itself."""
    both = sets @ sets.transpose(0, 2, 1)  # (m, n, n)
    count = sets.sum(2)  # (m, n)
    either = count[:, :, None] + count[:, None, :] - both
    distance = np.where(either > 0, 1 - both / np.maximum(either, 1), 0).astype(float)
    distance[:, np.arange(sets.shape[1]), np.arange(sets.shape[1])] = 0
    return distance


def diversity(ranking: Ranking, k: int) -> np.ndarray:
    """(n,) in 0..1; over all candidates in a list of fewer than k; nan for a list of one, and where no item has a
    category. Raises ValueError where the ranking does not know its items."""
    if ranking.categories is None or len(ranking.candidates) != len(ranking.scores):
        raise ValueError("expected the items and their categories: diversity is a metric of items, not of ranks alone")
    result = np.full(len(ranking.size), np.nan)
    if not ranking.categories.nnz:
        return result
    for n in np.unique(ranking.size[ranking.size > 1]):
        top = min(k, int(n))
        same_size = np.flatnonzero(ranking.size == n)
        for chunk in np.array_split(same_size, -(-len(same_size) // 64)):
            items = np.concatenate([ranking.candidates[i] for i in chunk])
            distance = _distances(ranking.categories[items].toarray().reshape(len(chunk), n, -1))
            sure, tie = (x.astype(float) for x in _inclusion(np.stack([ranking.scores[i] for i in chunk]), top))
            tied = tie.sum(1)
            free = top - sure.sum(1)  # places left for the tied block, >= 1
            one = free / tied  # chance of a tied candidate
            two = one * (free - 1) / np.maximum(tied - 1, 1)  # of a given pair of them
            total = _pairs(sure, distance, sure) + 2 * one * _pairs(sure, distance, tie)
            result[chunk] = (total + two * _pairs(tie, distance, tie)) / (top * (top - 1))
    return result
