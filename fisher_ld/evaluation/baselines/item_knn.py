"""Item-kNN: a candidate's score is its cosine similarity to the user's earlier positives, summed over those among the
candidate's k nearest neighbours (Sarwar et al. 2001, binary)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from safetensors.numpy import load_file, save_file

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Rivals


@dataclass(frozen=True)
class ItemKNN:
    neighbours: sp.csr_array  # (items, items): row i holds the similarities of i's k nearest, never i itself

    @classmethod
    def fit(cls, matrix: sp.csr_array, rivals: Rivals, block: int = 1024) -> ItemKNN:
        """`matrix`: users x items, binary. Of equally similar neighbours the smaller (shuffled) item number is kept.
        Similarities are formed `block` items at a time."""
        length = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())  # of an item's column
        n_items = len(length)
        by_item = sp.csr_array(matrix.T)
        kept = []
        for begin in range(0, n_items, block):
            shared = sp.coo_array(by_item[begin : begin + block] @ matrix)  # users who liked both
            row, column = shared.coords[0] + begin, shared.coords[1]
            other = row != column
            row, column = row[other], column[other]
            value = shared.data[other] / (length[row] * length[column])
            order = np.lexsort((column, -value, row))
            row, column, value = row[order], column[order], value[order]
            near = np.arange(len(row)) - np.searchsorted(row, row) < rivals.neighbours  # place within its row
            kept.append((row[near], column[near], value[near]))
        row, column, value = (np.concatenate(part) for part in zip(*kept, strict=True))
        return cls(sp.csr_array((value, (row, column)), shape=(n_items, n_items)))

    def score(self, lists: Lists) -> list[np.ndarray]:
        """The liked items are those of the prompt: rivals and models see the same history."""
        liked = np.zeros(self.neighbours.indptr.size - 1, np.float32)
        scores = []
        for number, candidates in enumerate(lists.candidates):
            history = lists.history(number)
            liked[history] = 1
            scores.append(self.neighbours[candidates] @ liked)
            liked[history] = 0
        return scores

    def save(self, folder: Path) -> None:
        rows = self.neighbours
        save_file({"data": rows.data, "indices": rows.indices, "indptr": rows.indptr}, folder / "item_knn.safetensors")

    @classmethod
    def load(cls, folder: Path) -> ItemKNN:
        rows = load_file(folder / "item_knn.safetensors")
        n_items = len(rows["indptr"]) - 1
        return cls(sp.csr_array((rows["data"], rows["indices"], rows["indptr"]), shape=(n_items, n_items)))
