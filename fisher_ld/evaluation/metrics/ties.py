"""Where the positives of candidate lists stand, and the rule for ties that all metrics share.

Candidates with equal scores stand in random order: every metric is its **expectation** over the ranks of the
positive's tied block, which are equally likely. A constant scorer ties the whole list, so that it scores exactly
chance, whatever the positive's place. The mean rank of the block is the expectation of the rank itself; AUC is linear
in the rank, so that for AUC both rules are one. For the others the mean rank put into the metric would not do: in a
list of 20 a constant scorer has mean rank 10.5, hence Hit@10 0, where chance is 0.5.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp


@dataclass(frozen=True)
class Ranking:
    """n candidate lists in the order of their scores."""

    scores: Sequence[np.ndarray]  # n arrays, higher is better
    candidates: Sequence[np.ndarray]  # n arrays of item numbers; empty where no metric asks for the items
    categories: sp.csr_array | None  # items x categories
    better: np.ndarray  # (n,) how many candidates have a higher score than the positive
    tied: np.ndarray  # (n,) how many have its score, itself among them
    size: np.ndarray  # (n,)

    def expected(self, gain: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """Mean of `gain`, a function of ranks (1 = best), over the ranks of each positive's tied block: (n,)."""
        gains = gain(np.arange(1, int(self.size.max()) + 1))
        total = np.concatenate([[0.0], np.cumsum(gains)])  # total[r]: sum of the gains of ranks 1..r
        return (total[self.better + self.tied] - total[self.better]) / self.tied


def rank(
    scores: Sequence[np.ndarray],
    positive: np.ndarray,
    candidates: Sequence[np.ndarray] = (),
    categories: sp.csr_array | None = None,
) -> Ranking:
    """`scores`: one array a list, higher is better. `positive`: (n,) the positive's place in each. Raises ValueError on
    an empty list, on scores that are not finite and on a place outside of its list."""
    size = np.array([len(s) for s in scores], dtype=np.int64)
    if len(size) == 0 or size.min() == 0:
        raise ValueError(f"expected at least one list and no empty one, got {len(size)} lists of sizes {set(size)}")
    flat, first = np.concatenate(scores), np.cumsum(size) - size
    if not np.isfinite(flat).all():
        bad = np.repeat(np.arange(len(size)), size)[~np.isfinite(flat)]
        raise ValueError(f"expected finite scores, got {len(bad)} that are not, the first in list {bad[0]}")
    if len(positive) != len(size) or (positive < 0).any() or (positive >= size).any():
        raise ValueError(f"expected a place within each of {len(size)} lists, got {len(positive)} places: {positive}")
    mark = np.repeat(flat[first + positive], size)
    better = np.add.reduceat((flat > mark).astype(np.int64), first)
    tied = np.add.reduceat((flat == mark).astype(np.int64), first)
    return Ranking(scores, candidates, categories, better, tied, size)
