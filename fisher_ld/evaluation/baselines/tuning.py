"""A rival's settings, chosen on the validation lists."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import rank

Grid = Mapping[str, tuple[Any, ...]]  # setting -> what it may be, the likeliest first; the last setting varies fastest


class Fitted(Protocol):
    """What a rival is asked for. The same evidence and settings give the same scores."""

    GRID: ClassVar[Grid]

    @classmethod
    def fit(cls, *evidence: Any, **settings: Any) -> Self: ...

    def score(self, lists: Lists) -> list[np.ndarray]:
        """One score a candidate of every list, higher is better."""
        ...


@dataclass(frozen=True)
class Tuned:
    settings: dict[str, Any]  # the best on the validation lists
    ndcg_10: float
    scores: list[np.ndarray]  # of these lists
    tried: list[dict[str, Any]]  # settings and ndcg_10 of each trial
    seconds: float

    def record(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "scores"}


def choices(grid: Grid, trials: int) -> list[dict[str, Any]]:
    """At most `trials` settings of the grid: all, or evenly spaced ones, the first among them."""
    every = [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]
    return [every[i] for i in np.unique(np.linspace(0, len(every) - 1, min(trials, len(every))).round().astype(int))]


def tune(kind: type[Fitted], evidence: Any, lists: Lists, trials: int) -> Tuned:
    """Tries settings of `kind` on `lists`; of equally good ones the first is chosen. Where the first setting tells no
    candidate from another, as likes do on cold items, the others are not tried."""
    started, tried, best = time.monotonic(), [], None
    for settings in choices(kind.GRID, trials):
        scores = kind.fit(evidence, **settings).score(lists)
        quality = float(ndcg(rank(scores, lists.positive), 10).mean())
        tried.append({"settings": settings, "ndcg_10": quality})
        if best is None or quality > best[0]:
            best = quality, settings, scores
        if len(tried) == 1 and not any(np.ptp(row) for row in scores):
            break
    assert best is not None
    quality, settings, scores = best
    return Tuned(settings, quality, scores, tried, time.monotonic() - started)
