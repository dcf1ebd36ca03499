"""What models put first for a few users (Table VII), who are drawn from those of the main test lists before any score
is read; and, of all users, how many of the teacher's first items a student has among its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from fisher_ld.batches.lists import MAIN, Lists, read_lists, read_texts
from fisher_ld.config import paths
from fisher_ld.config.params import Run, methods_of
from fisher_ld.config.paths import DataPaths
from fisher_ld.evaluation.scores import read_scores

USERS, TOP = 5, 5
TEACHER = "teacher"


def models(run: Run) -> Iterator[tuple[str, int]]:
    """The teacher that students learn from, and the first run of every student."""
    yield TEACHER, run.teacher_seeds[0]
    yield from ((paths.student(student, m), run.seeds[0]) for student in run.students for m in methods_of(run, student))


def draw(lists: Lists, seed: int) -> np.ndarray:
    """Numbers of the first lists of USERS users, or of all where there are fewer."""
    users, first = np.unique(lists.user, return_index=True)
    return first[np.random.default_rng(seed).permutation(len(users))[:USERS]]


def order(scores: np.ndarray) -> np.ndarray:
    """Places of a list's candidates, best first; equal ones as they stand in the list, which is at random."""
    return np.argsort(-scores, kind="stable")


def shared(orders: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """How many of the TOP first places of one order are among those of the other, mean over the lists."""
    return float(np.mean([len(np.intersect1d(a[:TOP], b[:TOP])) for a, b in zip(orders, others, strict=True)]))


def examples(data: DataPaths, run: Run, seed: int) -> dict[str, Any]:
    """`users`: of each `user`, `history` (titles of what the prompt holds, oldest first), `liked` (the title that was
    liked next), `candidates` (their number) and, by model, `top` (the first TOP titles) and `rank` (1 = first, of the
    one that was liked). `shared`, by model, with the teacher, over all `lists`; `by_chance`, of a random order. Raises
    UserError where a model was not scored."""
    lists, texts = read_lists(data.processed, f"test_{MAIN}"), read_texts(data.processed)
    orders = {
        model: [order(s) for s in read_scores(data.test(model, run_seed) / f"{MAIN}.parquet", lists).values]
        for model, run_seed in models(run)
    }
    users = []
    for number in draw(lists, seed):
        candidates, positive = lists.candidates[number], lists.positive[number]
        users.append(
            {
                "user": int(lists.user[number]),
                "history": [texts[item] for item in lists.history(number)],
                "liked": texts[candidates[positive]],
                "candidates": len(candidates),
                "models": {
                    model: {
                        "top": [texts[candidates[place]] for place in found[number][:TOP]],
                        "rank": 1 + int(np.flatnonzero(found[number] == positive)[0]),
                    }
                    for model, found in orders.items()
                },
            }
        )
    by_chance = np.mean([min(TOP, len(c)) ** 2 / len(c) for c in lists.candidates])
    return {
        "users": users,
        "lists": len(lists),
        "shared": {model: shared(found, orders[TEACHER]) for model, found in orders.items()},
        "by_chance": float(by_chance),
    }
