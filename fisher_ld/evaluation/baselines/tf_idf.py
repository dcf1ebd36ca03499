"""TF-IDF: a candidate's score is the cosine of its text to the sum of the liked items' texts, older ones less. Nothing
is learned from likes: a word's idf counts the items that have it (Spärck Jones 1972)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.baselines.histories import score_by_history
from fisher_ld.evaluation.baselines.tuning import Grid


@dataclass(frozen=True)
class TfIdf:
    GRID: ClassVar[Grid] = {"longest": (1, 2), "decay": (0.9, 0.8, 0.7, 1.0)}
    vectors: sp.csr_array  # (items, terms), each row of length 1
    vectorizer: Any  # scikit-learn's, which makes such rows of other texts
    decay: float

    @classmethod
    def fit(cls, texts: Sequence[str], longest: int, decay: float) -> TfIdf:
        """`texts`: of each item. `longest`: words of the longest term."""
        vectorizer, vectors = term_vectors(tuple(texts), longest)
        return cls(vectors, vectorizer, decay)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return score_by_history(lists, self.decay, self.vectors, self.vectors.T)

    def score_all(self, history: Sequence[str]) -> np.ndarray:
        """The score of every item after a history of any texts, oldest first: (items,)."""
        vectors: Any = self.vectors
        if not history:
            return np.zeros(vectors.shape[0])
        weights = self.decay ** np.arange(len(history) - 1, -1, -1.0)  # (texts,)
        return vectors @ (self.vectorizer.transform(history).T @ weights)


@lru_cache(maxsize=1)
def term_vectors(texts: tuple[str, ...], longest: int) -> tuple[Any, sp.csr_array]:
    """(1 + log tf) idf, normalised: the vectorizer of scikit-learn that tells them, and those of `texts`, (items,
    terms)."""
    from sklearn.feature_extraction.text import TfidfVectorizer  # takes a second

    vectorizer = TfidfVectorizer(token_pattern=r"\w+", ngram_range=(1, longest), sublinear_tf=True, smooth_idf=False)
    vectors = sp.csr_array(vectorizer.fit_transform(texts))
    return vectorizer, vectors
