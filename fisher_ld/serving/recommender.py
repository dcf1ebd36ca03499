"""Recommendations out of a whole catalogue: a fast first stage finds candidates, a model ranks them again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
import scipy.sparse as sp

from fisher_ld.batches.lists import make_lists
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import WHOLE, UserError, reading
from fisher_ld.core.files import atomic_path, read_json, write_json
from fisher_ld.datasets.titles import article_first, clean, split_year
from fisher_ld.evaluation.baselines.catalogue import fit_chosen, settings_file
from fisher_ld.evaluation.baselines.item_knn import ItemKNN
from fisher_ld.evaluation.baselines.tf_idf import TfIdf
from fisher_ld.serving.predictor import Predictor, load

LIKES, TEXT = "item-knn-all", "tf-idf"  # the rivals that find candidates: by what others liked, and by words


class Recommendation(NamedTuple):
    item_id: str
    text: str
    score: float  # z of the model; of the first stage 0 for the best, one less for each next


class Found(NamedTuple):
    """What the first stage says of a history."""

    candidates: np.ndarray  # item numbers, the best first
    texts: list[str]  # of the history, as the model reads them
    unknown: list[str]  # those of them that are no item's
    ms: float


class Answer(NamedTuple):
    items: list[Recommendation]  # the best first
    unknown: list[str]  # texts of the history that are no item's; the model reads them all the same
    first_stage_ms: float
    model_ms: float


@dataclass(frozen=True)
class Catalogue:
    """The items that can be recommended, and what finds candidates among them."""

    items: pl.DataFrame  # item_id, title, text, count (users who like it), by item number
    knn: ItemKNN
    tf_idf: TfIdf
    settings: dict[str, dict[str, float]]  # of the two

    @classmethod
    def of(cls, data: DataPaths) -> Catalogue:
        """Of a data set's stages `preprocess` and `rivals`. Raises UserError where they have not run."""
        file = data.processed / "items.parquet"
        if not file.is_file():
            raise UserError(f"{file}: no such file; run the stage preprocess (dvc repro)")
        items = pl.read_parquet(file, glob=False).sort("item").select("item_id", "title", "text", "count")
        settings = {name: read_json(settings_file(data, name)) for name in (LIKES, TEXT)}
        knn, tf_idf = fit_chosen(data, LIKES), fit_chosen(data, TEXT)
        assert isinstance(knn, ItemKNN) and isinstance(tf_idf, TfIdf)
        return cls(items, knn, tf_idf, settings)

    def write(self, folder: Path) -> None:
        """Whole or not at all: a table, a sparse matrix, settings."""
        with atomic_path(folder) as temporary:
            temporary.mkdir()
            self.items.write_parquet(temporary / "items.parquet")
            sp.save_npz(temporary / "similar.npz", self.knn.similar)
            write_json(temporary / "settings.json", self.settings)

    @classmethod
    def read(cls, folder: Path) -> Catalogue:
        with reading(folder, WHOLE):
            items = pl.read_parquet(folder / "items.parquet", glob=False)
            settings = read_json(folder / "settings.json")
            knn = ItemKNN(sp.csr_array(sp.load_npz(folder / "similar.npz")), settings[LIKES]["decay"])
            return cls(items, knn, TfIdf.fit(items["text"].to_list(), **settings[TEXT]), settings)

    def numbers(self, column: str) -> dict[str, int]:
        """Of the items, by their title or text as `_key` has it; of equal ones the most popular one's."""
        by_popularity = self.items.with_row_index("number").sort("count", maintain_order=True)
        rows = by_popularity.select(column, "number").drop_nulls().iter_rows()
        return {_key(name): number for name, number in rows}

    @cached_property
    def alike(self) -> np.ndarray:
        """For each item the most popular one with the same text, which alone is recommended: (items,)."""
        numbers = self.numbers("text")
        return np.array([numbers[_key(text)] for text in self.items["text"]], np.int64)

    def candidates(self, numbers: Sequence[int], history: Sequence[str], count: int) -> np.ndarray:
        """Item numbers, at most `count`: by turns the next best of item-kNN after the items `numbers` and of TF-IDF
        after the texts `history`; where neither has any more to say the most popular ones. No text twice, and none of
        those of `numbers`."""
        everything, liked = np.arange(len(self.items)), np.array(numbers, np.int64)
        columns = {name: np.zeros(1, np.int64) for name in ("user", "start", "positive")}
        lists = make_lists(columns | {"position": np.array([len(liked)])}, [everything], [liked])
        by_likes = self.knn.score(lists)[0] if len(numbers) else np.zeros(len(everything))
        kinds = by_likes, self.tf_idf.score_all(history), self.items["count"].to_numpy() + 1.0
        new = (self.alike == everything) & ~np.isin(self.alike, self.alike[liked])
        *orders, popular = (_best(scores * new, count) for scores in kinds)
        turns = chain(chain.from_iterable(zip_longest(*orders)), popular)
        found = dict.fromkeys(int(i) for i in turns if i is not None)
        return np.array(list(found)[:count], np.int64)


def _key(name: str) -> str:
    return name.casefold().strip()


def _best(scores: np.ndarray, count: int) -> np.ndarray:
    """The places of the highest scores above 0, best first, at most `count`; of equal ones the first."""
    count = min(count, int((scores > 0).sum()))
    near = np.argpartition(-scores, count)[:count] if count < len(scores) else np.arange(len(scores))
    return near[np.lexsort((near, -scores[near]))]


class Recommender:
    """What a model recommends of a catalogue, to users known by what they liked."""

    def __init__(self, predictor: Predictor, catalogue: Catalogue):
        self.predictor, self.catalogue = predictor, catalogue
        self.texts = catalogue.items["text"].to_list()
        self.number = catalogue.numbers("title") | catalogue.numbers("text")

    def recommend(self, history: Sequence[str], k: int = 10, rerank: int = 100) -> Answer:
        """The `k` best of the first stage's `rerank` candidates by the model. `history`: titles or texts, oldest first,
        of items or of anything else; empty, the most popular items are ranked. What was liked is not recommended.
        Raises ValueError for a `k` or `rerank` below 1, UserError for a history longer than the model's context."""
        if k < 1 or rerank < 1:
            raise ValueError(f"expected k and rerank of at least 1, got {k} and {rerank}")
        return self.ranked(self.first_stage(history, max(k, rerank)), k)

    def first_stage(self, history: Sequence[str], count: int) -> Found:
        """At most `count` candidates, as the first stage alone has them."""
        started = time.perf_counter()
        numbers, texts, unknown = self.resolve(history)
        candidates = self.catalogue.candidates(numbers, texts, count)
        return Found(candidates, texts, unknown, 1000 * (time.perf_counter() - started))

    def ranked(self, found: Found, k: int) -> Answer:
        """The `k` best of what the first stage found, by the model; none where all was liked."""
        if len(found.candidates) == 0:
            return Answer([], found.unknown, found.ms, 0.0)
        started = time.perf_counter()
        ranking = self.predictor.rank(found.texts, [self.texts[number] for number in found.candidates])
        best = ranking.order[:k]
        items = self.described(found.candidates[best], ranking.scores[best])
        return Answer(items, found.unknown, found.ms, 1000 * (time.perf_counter() - started))

    def find(self, query: str, count: int) -> list[str]:
        """Texts of the most popular items that have all words of a query."""
        words = query.casefold().split()
        by_popularity = self.catalogue.items["count"].arg_sort(descending=True)
        found = (self.texts[i] for i in by_popularity if all(word in self.texts[i].casefold() for word in words))
        return list(islice(found, count))

    def resolve(self, history: Sequence[str]) -> tuple[list[int], list[str], list[str]]:
        """The numbers of the items named, the texts that the model reads in place of their titles, and what names no
        item."""
        known = [self._number(name) for name in history]
        texts = [name if number is None else self.texts[number] for name, number in zip(history, known, strict=True)]
        unknown = [name for name, number in zip(history, known, strict=True) if number is None]
        return [number for number in known if number is not None], texts, unknown

    def _number(self, name: str) -> int | None:
        """Of the item with this title or text, or with this title as sources spell it: 'Blue Angel, The (1930)'."""
        title, year = split_year(clean(name) or "")
        title = article_first(title)
        of_year = (f"{title} '{year[-2:]}", f"{title} ({year})", f"{title} {year}") if year else ()
        spellings = (name, *of_year, title)
        return next((self.number[key] for key in map(_key, spellings) if key in self.number), None)

    def described(self, numbers: np.ndarray, scores: Sequence[float] | np.ndarray) -> list[Recommendation]:
        ids = self.catalogue.items["item_id"]
        rows = zip(numbers.tolist(), scores, strict=True)
        return [Recommendation(str(ids[number]), self.texts[number], float(score)) for number, score in rows]

    def explain(self, history: Sequence[str], candidate: str) -> list[float]:
        """How much of z of the `candidate` goes when each text of the history is left out: (texts,). In float32
        where the model has it."""
        _, texts, _ = self.resolve(history)
        _, (asked,), _ = self.resolve([candidate])
        without = [texts[:place] + texts[place + 1 :] for place in range(len(texts))]
        whole, *parts = self.predictor.exact.score([texts, *without], [[asked]] * (len(texts) + 1))
        return [float(whole[0] - part[0]) for part in parts]


def load_recommender(folder: str | Path, predictor: Predictor | None = None, int8: bool = True) -> Recommender:
    """A saved model, as `load` reads it, over the catalogue that lies beside it: of a folder of `fisher-ld export` its
    own, of what a stage saved the data set's. Raises UserError where there is none."""
    folder = Path(folder)
    return Recommender(predictor or load(folder, int8=int8), read_catalogue(folder))


def read_catalogue(folder: Path) -> Catalogue:
    """The catalogue of a saved model; raises UserError where there is none."""
    if (folder / "catalogue").is_dir():
        return Catalogue.read(folder / "catalogue")
    if data := DataPaths.around(folder):
        return Catalogue.of(data)
    raise UserError(
        f"{folder}: no catalogue lies beside this model, neither its own (fisher-ld export writes it) nor a data set's "
        "above it: name a model below data/, or rank given candidates"
    )
