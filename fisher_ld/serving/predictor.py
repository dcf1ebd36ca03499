"""A saved model in use: free text in, scores out. What is timed is what is served."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.batches.prompts import Prompts, build_prompts, read_template
from fisher_ld.config.params import Prompt
from fisher_ld.core.errors import UserError
from fisher_ld.serving.tokenizer import SavedTokenizer

INT8 = "model.int8.onnx"  # of an exported folder


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
    read in smaller pieces."""

    def __init__(self, backend: Backend, tokenizer: Any, template: Prompt):
        self.backend, self.tokenizer, self.template = backend, tokenizer, template

    @classmethod
    def of(cls, folder: Path, backend: Backend) -> Predictor:
        """With the tokenizer and the template that lie beside the model in `folder`."""
        return cls(backend, SavedTokenizer(folder), read_template(folder))

    def rank(self, history: Sequence[str], candidates: Sequence[str]) -> Ranking:
        """The candidates of one user. `history`: texts of what the user liked, oldest first. Raises as `score` does."""
        (scores,) = self.score([history], [candidates])
        return Ranking(scores, np.argsort(-scores, kind="stable"))

    def score(self, histories: Sequence[Sequence[str]], candidates: Sequence[Sequence[str]]) -> list[np.ndarray]:
        """z of each candidate of each query; candidates of a query share its history in one packed row. Raises
        ValueError where the queries do not match, UserError where one is longer than the model's context."""
        if len(histories) == len(candidates) == 0:
            return []
        lists, texts = query_lists(histories, candidates)
        logits = self.backend.logits(lists, build_prompts(self.tokenizer, texts, self.template))
        return np.split(logits, lists.offsets[1:-1])


def load(folder: str | Path, compute: Any = None) -> Predictor:
    """A saved model: of a folder of `fisher-ld export` in 8 bits under ONNX Runtime, which needs no PyTorch; else, or
    where `compute` says where it runs (a Compute), under PyTorch, by default on the CPU in float32. Raises
    UserError for a folder that holds no model."""
    folder = Path(folder)
    if not (folder / "prompt.json").is_file():
        raise UserError(
            f"{folder}: expected the folder of a model, such as data/movielens-100k/students/small/fisher-ld/0, "
            "which has a prompt.json; found none. Run the stage that writes it (dvc repro)"
        )
    if compute is None and (folder / INT8).is_file():
        from fisher_ld.serving.onnx import OnnxBackend

        return Predictor.of(folder, OnnxBackend(folder))
    from fisher_ld.serving.torch_backend import TorchBackend

    return Predictor.of(folder, TorchBackend(folder, compute))


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
    return value
