"""Popularity: a candidate's score is the number of training users who liked it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Rivals


@dataclass(frozen=True)
class Popularity:
    count: np.ndarray  # (items,)

    @classmethod
    def fit(cls, matrix: sp.csr_array, rivals: Rivals) -> Popularity:
        """`matrix`: users x items, binary."""
        return cls(np.asarray(matrix.sum(axis=0)).ravel())

    def score(self, lists: Lists) -> list[np.ndarray]:
        return [self.count[candidates] for candidates in lists.candidates]

    def save(self, folder: Path) -> None:
        save_file({"count": self.count}, folder / "popularity.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Popularity:
        return cls(**load_file(folder / "popularity.safetensors"))
