"""Which examples the Fisher traces are taken of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fisher_ld.batches.lists import Lists
from fisher_ld.core.errors import UserError

LIST = 5  # candidates that are taken of a list, at most


@dataclass(frozen=True)
class Sample:
    """Examples in the order in which they are used."""

    source: Literal["transfer", "labelled"]  # windows of which the teacher has read nothing, or whose labels it learned
    lists: Lists
    examples: np.ndarray  # example ids: (S,), each drawn alone; or (M, C), C candidates of each of M lists


def draw_samples(labelled: Lists, transfer: Lists, samples: int, seed: int) -> list[Sample]:
    """Some `samples` examples without labels, in whole lists, from transfer windows; and as many with labels, each
    drawn alone. Where there are no transfer windows, lists with labels stand for both. Raises UserError where nothing
    is labelled."""
    if not len(labelled):
        raise UserError("no examples for Fisher traces: no list is labelled; look at the data report of preprocess")
    if not len(transfer):
        print("no transfer windows: the Fishers of the kinds model and list are of windows that the teacher has read")
        return [Sample("labelled", labelled, draw_lists(labelled, samples, seed))]
    return [
        Sample("transfer", transfer, draw_lists(transfer, samples, seed)),
        Sample("labelled", labelled, draw_examples(int(labelled.offsets[-1]), samples, seed)),
    ]


def draw_examples(examples: int, samples: int, seed: int) -> np.ndarray:
    """At most `samples` different example ids, in the order in which they are to be used."""
    return np.random.default_rng(seed).permutation(examples)[:samples]


def draw_lists(lists: Lists, samples: int, seed: int) -> np.ndarray:
    """Example ids (M, C) of different lists, at least `samples` where there are so many: of each list `LIST`
    candidates, or as many as the shortest has."""
    rng = np.random.default_rng(seed)
    sizes = np.diff(lists.offsets)
    each = min(LIST, int(sizes.min()))
    chosen = rng.permutation(len(lists))[: -(-samples // each)]
    return np.stack([lists.offsets[i] + np.sort(rng.permutation(sizes[i])[:each]) for i in chosen])
