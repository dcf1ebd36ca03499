"""Popularity and item-kNN, fitted on the training positives of all training users."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists


def interactions(sequences: list[np.ndarray], train_positives: np.ndarray, n_items: int) -> sp.csr_array:
    """Binary users x items matrix of the first `train_positives[u]` positives of each user u."""
    if len(sequences) != len(train_positives):
        raise ValueError(f"expected one cut-off a user, got {len(train_positives)} for {len(sequences)} users")
    kept = [items[:count] for items, count in zip(sequences, train_positives, strict=True)]
    users = np.repeat(np.arange(len(kept)), [len(items) for items in kept])
    items = np.concatenate(kept).astype(np.int64) if kept else np.empty(0, np.int64)
    matrix = sp.csr_array((np.ones(len(users), np.float32), (users, items)), shape=(len(kept), n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


@dataclass(frozen=True)
class Popularity:
    """A candidate's score is the number of training users who liked it."""

    count: np.ndarray  # (items,)

    @classmethod
    def fit(cls, matrix: sp.csr_array) -> Popularity:
        return cls(np.asarray(matrix.sum(axis=0)).ravel())

    def score(self, lists: Lists) -> list[np.ndarray]:
        return [self.count[candidates] for candidates in lists.candidates]


@dataclass(frozen=True)
class ItemKNN:
    """A candidate's score is its cosine similarity to the user's earlier positives, summed over those among the
    candidate's k nearest neighbours (Sarwar et al. 2001, binary)."""

    neighbours: sp.csr_array  # (items, items): row i holds the similarities of i's k nearest, never i itself

    @classmethod
    def fit(cls, matrix: sp.csr_array, k: int, block: int = 1024) -> ItemKNN:
        """`matrix`: users x items, binary. Of equally similar neighbours the smaller (shuffled) item number is kept.
        Similarities are formed `block` items at a time."""
        norm = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
        n_items = len(norm)
        by_item = sp.csr_array(matrix.T)
        kept = []
        for begin in range(0, n_items, block):
            shared = sp.coo_array(by_item[begin : begin + block] @ matrix)  # users who liked both
            row, column = shared.coords[0] + begin, shared.coords[1]
            other = row != column
            row, column = row[other], column[other]
            value = shared.data[other] / (norm[row] * norm[column])
            order = np.lexsort((column, -value, row))
            row, column, value = row[order], column[order], value[order]
            near = np.arange(len(row)) - np.searchsorted(row, row) < k  # place within its row
            kept.append((row[near], column[near], value[near]))
        row, column, value = (np.concatenate(part) for part in zip(*kept, strict=True))
        return cls(sp.csr_array((value, (row, column)), shape=(n_items, n_items)))

    def score(self, lists: Lists) -> list[np.ndarray]:
        """The liked items are those of the prompt: baseline and models see the same history."""
        liked = np.zeros(self.neighbours.indptr.size - 1, np.float32)
        scores = []
        for number, candidates in enumerate(lists.candidates):
            history = lists.history(number)
            liked[history] = 1
            scores.append(self.neighbours[candidates] @ liked)
            liked[history] = 0
        return scores


def baseline_scores(lists: Lists, train_positives: np.ndarray, n_items: int, k: int) -> dict[str, list[np.ndarray]]:
    """Scores of `popularity` and `item-knn` for every candidate of `lists`; k: neighbours."""
    matrix = interactions(lists.sequences, train_positives, n_items)
    models = {"popularity": Popularity.fit(matrix), "item-knn": ItemKNN.fit(matrix, k)}
    return {name: model.score(lists) for name, model in models.items()}
