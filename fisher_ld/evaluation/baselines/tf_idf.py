"""TF-IDF: a candidate's score is the cosine of its text to the sum of the liked items' texts, older ones less. Nothing
is learned from likes: a word's idf counts the items that have it (Spärck Jones 1972)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.baselines.histories import score_by_history
from fisher_ld.evaluation.baselines.tuning import Grid


@dataclass(frozen=True)
class Terms:
    """The terms of some texts, each a run of one to `longest` words. It gives what scikit-learn's TfidfVectorizer does
    (sublinear_tf, no smooth_idf), whose import takes most of a command's start."""

    place: Mapping[str, int]
    idf: np.ndarray  # (terms,) 1 + log of the texts over those that have the term
    longest: int

    @classmethod
    def of(cls, texts: Sequence[str], longest: int) -> Terms:
        having = Counter(chain.from_iterable(set(_terms(text, longest)) for text in texts))
        names = sorted(having)
        idf = 1 + np.log(len(texts) / np.array([having[name] for name in names], np.float64))
        return cls(dict(zip(names, range(len(names)), strict=True)), idf, longest)

    def vectors(self, texts: Sequence[str]) -> sp.csr_array:
        """(1 + log tf) idf of any texts, normalised; unknown terms are left out: (texts, terms)."""
        places = [[p for t in _terms(text, self.longest) if (p := self.place.get(t)) is not None] for text in texts]
        starts = np.cumsum([0, *map(len, places)])
        counts: Any = sp.csr_array((np.ones(starts[-1]), [*chain(*places)], starts), (len(texts), len(self.idf)))
        counts.sum_duplicates()
        lengths = np.diff(counts.indptr)
        values = (1 + np.log(counts.data)) * self.idf[counts.indices]
        squares = np.bincount(np.repeat(np.arange(len(texts)), lengths), values**2, len(texts))
        counts.data = values / np.repeat(np.sqrt(squares), lengths)
        return counts


def _terms(text: str, longest: int) -> Iterator[str]:
    words = re.findall(r"\w+", text.lower())
    yield from words
    for n in range(2, longest + 1):
        yield from map(" ".join, zip(*(words[i:] for i in range(n)), strict=False))


@dataclass(frozen=True)
class TfIdf:
    GRID: ClassVar[Grid] = {"longest": (1, 2), "decay": (0.9, 0.8, 0.7, 1.0)}
    vectors: sp.csr_array  # (items, terms), each row of length 1
    terms: Terms
    decay: float

    @classmethod
    def fit(cls, texts: Sequence[str], longest: int, decay: float) -> TfIdf:
        """`texts`: of each item. `longest`: words of the longest term."""
        terms, vectors = _fitted(tuple(texts), longest)
        return cls(vectors, terms, decay)

    def score(self, lists: Lists) -> list[np.ndarray]:
        return score_by_history(lists, self.decay, self.vectors, self.vectors.T)

    def score_all(self, history: Sequence[str]) -> np.ndarray:
        """The score of every item after a history of any texts, oldest first: (items,)."""
        vectors: Any = self.vectors
        if not history:
            return np.zeros(vectors.shape[0])
        weights = self.decay ** np.arange(len(history) - 1, -1, -1.0)  # (texts,)
        return vectors @ (self.terms.vectors(history).T @ weights)


@lru_cache(maxsize=1)
def _fitted(texts: tuple[str, ...], longest: int) -> tuple[Terms, sp.csr_array]:
    terms = Terms.of(texts, longest)
    return terms, terms.vectors(texts)
