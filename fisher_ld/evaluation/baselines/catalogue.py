"""The rivals: a row each. From here come their names in files and their labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

import numpy as np
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Rivals
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path
from fisher_ld.evaluation.baselines.interactions import read_interactions
from fisher_ld.evaluation.baselines.item_knn import ItemKNN
from fisher_ld.evaluation.baselines.popularity import Popularity


class Fitted(Protocol):
    """What a rival is asked for."""

    @classmethod
    def fit(cls, matrix: sp.csr_array, rivals: Rivals) -> Self: ...

    def score(self, lists: Lists) -> list[np.ndarray]:
        """One score a candidate of every list, higher is better."""
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Self: ...


@dataclass(frozen=True)
class Rival:
    label: str  # in tables and pictures
    kind: type[Fitted]


RIVALS: Mapping[str, Rival] = {
    "popularity": Rival("popularity", Popularity),
    "item-knn": Rival("item-kNN", ItemKNN),
}


def fit_rivals(processed: Path, rivals: Rivals, folder: Path) -> dict[str, Fitted]:
    """Fits all of them on the training positives of all users, and writes `folder`/NAME each."""
    matrix = read_interactions(processed)
    fitted = {name: rival.kind.fit(matrix, rivals) for name, rival in RIVALS.items()}
    for name, rival in fitted.items():
        with atomic_path(folder / name) as temporary:
            temporary.mkdir()
            rival.save(temporary)
    return fitted


def load_rivals(folder: Path) -> dict[str, Fitted]:
    """What `fit_rivals` wrote. Raises UserError where one is missing."""
    for name in RIVALS:
        if not (folder / name).is_dir():
            raise UserError(f"{folder / name}: no such rival; run the stage rivals (dvc repro)")
    return {name: rival.kind.load(folder / name) for name, rival in RIVALS.items()}
