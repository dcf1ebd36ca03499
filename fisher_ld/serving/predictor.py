"""A saved model in use: free text in, scores out. What is timed is what is served."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple, Protocol

import numpy as np

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.batches.prompts import Prompts, build_prompts, read_template
from fisher_ld.config.params import Prompt
from fisher_ld.config.paths import HISTORY, DataPaths
from fisher_ld.core.errors import WHOLE, UserError, reading
from fisher_ld.core.files import read_json
from fisher_ld.serving.tokenizer import SavedTokenizer

INT8, FP32 = "model.int8.onnx", "model.onnx"  # of an exported folder


class Backend(Protocol):
    """What computes a saved model."""

    def logits(self, lists: Lists, prompts: Prompts) -> np.ndarray:
        """z of every example: (examples,). Raises UserError for a prompt longer than the model's context."""
        ...


class Ranking(NamedTuple):
    """Of n candidates."""

    scores: np.ndarray  # (n,) z = logit(yes) - logit(no), in the order in which they were given
    order: np.ndarray  # (n,) int, their places, best first; equal ones as they were given


class Predictor:
    """Scores of candidates for users that are known by what they liked, all as text. A text that training never saw is
    read in smaller pieces. Of a history the latest `history_length` texts are read (None: all)."""

    def __init__(
        self,
        backend: Backend,
        tokenizer: Any,
        template: Prompt,
        history_length: int | None = None,
        exact: Callable[[], Backend] | None = None,
    ):
        self.backend, self.tokenizer, self.template = backend, tokenizer, template
        self.history_length, self._exact = history_length, exact
        self._one_at_a_time = Lock()  # tokenizer and layers are changed while they work

    @classmethod
    def of(cls, folder: Path, backend: Backend, exact: Callable[[], Backend] | None = None) -> Predictor:
        """With the tokenizer, the template and the length of histories that go with the model in `folder`."""
        return cls(backend, SavedTokenizer(folder), read_template(folder), history_length(folder), exact)

    @cached_property
    def exact(self) -> Predictor:
        """The same in float32, where the model is in 8 bits and has such a graph: there a score depends on what else
        is asked, which drowns what one text adds."""
        if self._exact is None:
            return self
        exact = Predictor(self._exact(), self.tokenizer, self.template, self.history_length)
        exact._one_at_a_time = self._one_at_a_time  # for the tokenizer is the same
        return exact

    def rank(self, history: Sequence[str], candidates: Sequence[str]) -> Ranking:
        """The candidates of one user. `history`: texts of what the user liked, oldest first. Raises as `score` does."""
        (scores,) = self.score([history], [candidates])
        return Ranking(scores, np.argsort(-scores, kind="stable"))

    def score(self, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """z of each candidate of each query; candidates of a query share its history in one packed row. Raises
        ValueError where the queries do not match, UserError where one is longer than the model's context or no
        Unicode."""
        if len(histories) == len(candidates) == 0:
            return []
        if self.history_length:
            histories = [_listed(history)[-self.history_length :] for history in histories]
        lists, texts = query_lists(histories, candidates)
        with self._one_at_a_time:
            logits = self.backend.logits(lists, build_prompts(self.tokenizer, texts, self.template))
        return np.split(logits, lists.offsets[1:-1])


def load(folder: str | Path, compute: Any = None, int8: bool = True) -> Predictor:
    """A saved model: of a folder of `fisher-ld export` in 8 bits, or with `int8` false in float32, under ONNX Runtime,
    which needs no PyTorch; else, or where `compute` says where it runs (a Compute), under PyTorch, by default on the
    CPU in float32. Raises UserError for a folder that holds no model."""
    folder = Path(folder)
    if not (folder / "prompt.json").is_file():
        raise UserError(
            f"{folder}: expected the folder of a model, such as data/movielens-100k/students/small/fisher-ld/0, "
            "which has a prompt.json; found none. Run the stage that writes it (dvc repro)"
        )
    if compute is None and (folder / INT8).is_file():
        from fisher_ld.serving.onnx import OnnxBackend

        exact = (lambda: OnnxBackend(folder, int8=False)) if int8 and (folder / FP32).is_file() else None
        return Predictor.of(folder, OnnxBackend(folder, int8), exact)
    from fisher_ld.serving.torch_backend import TorchBackend

    return Predictor.of(folder, TorchBackend(folder, compute))


def history_length(folder: Path) -> int | None:
    """How many liked texts a prompt of the model in `folder` holds at most, as its export or else its data set says.
    None where neither is there. Raises UserError for an export without."""
    data = DataPaths.around(folder)
    if (folder / HISTORY).is_file() or (folder / INT8).is_file():
        file = folder / HISTORY
    elif data and (data.processed / HISTORY).is_file():
        file = data.processed / HISTORY
    else:
        return None
    with reading(file, WHOLE):
        return read_json(file)["length"]


def query_lists(histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]) -> tuple[Lists, list[str]]:
    """Queries as lists of a user each, and the texts by the item numbers that the lists use. Raises ValueError where
    the two do not match, a query has no candidate, or something is no text."""
    if len(histories) != len(candidates) or any(len(texts) == 0 for texts in candidates):
        counts = [len(texts) for texts in candidates]
        raise ValueError(f"expected one or more candidates for each of {len(histories)} histories, got {counts}")
    number: dict[str, int] = {}

    def items(queries: Sequence[Sequence[str]]) -> list[np.ndarray]:
        return [
            np.array([number.setdefault(_text(text), len(number)) for text in _listed(q)], np.int64) for q in queries
        ]

    liked, asked = items(histories), items(candidates)
    none = np.zeros(len(liked), np.int64)  # as the positive: it is not known
    columns = {"user": np.arange(len(liked)), "start": none, "positive": none}
    return make_lists(columns | {"position": np.array([len(h) for h in liked])}, asked, liked), list(number)


def _listed(texts: Sequence[str]) -> Sequence[str]:
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got the text {texts!r}: put it into a list")
    return texts


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a text, got {value!r} of type {type(value).__name__}")
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        raise UserError(f"expected a text in Unicode, got {value[:60]!r}, which holds half a letter (a lone surrogate)")
    return value
