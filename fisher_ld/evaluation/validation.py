"""Models on the validation lists: how good they are while they train, and the scores from which choices are made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fisher_ld.batches.lists import Lists, read_lists, take
from fisher_ld.batches.prompts import Prompts
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.models.scorer import Scorer, score_lists


@dataclass(frozen=True)
class Validator:
    """A scorer on some validation lists, each time as it then is."""

    scorer: Scorer
    lists: Lists
    prompts: Prompts

    def scores(self) -> list[np.ndarray]:
        """One array a list."""
        return score_lists(self.scorer, self.lists, self.prompts, "validating")

    def __call__(self) -> float:
        """The mean NDCG@10."""
        return float(ndcg(rank(self.scores(), self.lists.positive), 10).mean())


def validator(scorer: Scorer, processed: Path, prompts: Prompts, users: int, seed: int) -> Validator:
    """Of `scorer` on the validation lists of a seeded few users."""
    lists = read_lists(processed, "val")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(lists))[:users])
    return Validator(scorer, take(lists, chosen), prompts)


def same_order(a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> float:
    """The share of lists whose candidates stand in the same order, all of them, by the scores of `a` and of `b`."""

    def order(scores: np.ndarray) -> np.ndarray:
        """Of every two candidates which is higher, 0 where they tie."""
        return np.sign(scores[:, None] - scores)

    return float(np.mean([np.array_equal(order(x), order(y)) for x, y in zip(a, b, strict=True)]))


def score_validation(scorer: Scorer, processed: Path, prompts: Prompts, path: Path) -> None:
    """Scores all validation lists and writes them to the file `path`."""
    lists = read_lists(processed, "val")
    write_scores(path, range(len(lists)), score_lists(scorer, lists, prompts, "scoring the validation lists"))
