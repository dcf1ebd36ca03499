"""Mean-pooled states: a candidate's score is the cosine of its text's mean state in the teacher before adaptation to
the sum of the liked items' states, older ones less. Nothing is learned from likes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from safetensors.numpy import load_file

from fisher_ld.batches.lists import Lists
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError
from fisher_ld.evaluation.baselines.histories import score_by_history
from fisher_ld.evaluation.baselines.tuning import Grid

DEPTHS = {"quarter": 0.25, "half": 0.5, "last": 1.0}  # share of the teacher's layers below a state


@dataclass(frozen=True)
class MeanStates:
    GRID: ClassVar[Grid] = {"depth": tuple(DEPTHS), "standardised": (True, False), "decay": (0.9, 0.8)}
    vectors: np.ndarray  # (items, d), each row of length 1
    decay: float

    @classmethod
    def fit(cls, states: dict[str, np.ndarray], depth: str, standardised: bool, decay: float) -> MeanStates:
        """`states`: of DEPTHS, (items, d) each. `standardised`: by channel over the items; most of a raw state is the
        mean of all."""
        vectors = states[depth].astype(np.float64)
        if standardised:
            vectors = (vectors - vectors.mean(0)) / np.maximum(vectors.std(0), 1e-6)
        return cls(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12), decay)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return score_by_history(lists, self.decay, self.vectors, self.vectors.T)


def read_states(data: DataPaths) -> dict[str, np.ndarray]:
    """What the stage embed_items wrote."""
    if not data.item_states.is_file():
        raise UserError(f"{data.item_states}: no such file; run the stage embed_items (dvc repro)")
    return load_file(data.item_states)
