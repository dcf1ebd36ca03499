"""Four users, five items, and lists over them."""

from __future__ import annotations

import numpy as np

from fisher_ld.batches.lists import Lists, make_lists
from fisher_ld.evaluation.baselines.interactions import Interactions, first_likes

# What lies behind a user's count must not be learned from. Known: u0 {0, 1, 2}, u1 {0, 1}, u2 {1, 2}, u3 {0}.
SEQUENCES = [np.array(s) for s in ([0, 1, 2, 4], [0, 1, 3], [1, 2], [0, 4, 3])]
COUNTS = (3, 2, 2, 1)


def likes() -> Interactions:
    return first_likes(SEQUENCES, COUNTS, 5)


def lists_of(user, position, candidates, start=0, sequences=SEQUENCES, positive=None) -> Lists:
    n = len(user)
    columns = {
        "user": np.array(user),
        "start": np.broadcast_to(start, n),
        "position": np.array(position),
        "positive": np.zeros(n, int) if positive is None else np.array(positive),
    }
    return make_lists(columns, [np.array(c) for c in candidates], sequences)


def many(seed: int = 0, users: int = 40, items: int = 60) -> tuple[Interactions, Lists]:
    """Random likes, known but for each user's last, and lists of 15 candidates after histories of 1 to 8."""
    rng = np.random.default_rng(seed)
    sequences = [rng.permutation(items)[: rng.integers(2, 20)] for _ in range(users)]
    position = np.array([len(s) - 1 for s in sequences])
    candidates = [rng.permutation(items)[:15] for _ in range(users)]
    lists = lists_of(np.arange(users), position, candidates, np.maximum(0, position - 8), sequences)
    return first_likes(sequences, position, items), lists


def slowly(lists: Lists, decay: float, relation: np.ndarray) -> list[list[float]]:
    """Scores of `relation`, (items, items), one candidate and one liked item after the other."""
    scores = []
    for number, candidates in enumerate(lists.candidates):
        history = lists.history(number)
        weights = [decay ** (len(history) - 1 - place) for place in range(len(history))]
        scores.append([sum(w * relation[i, j] for w, i in zip(weights, history, strict=True)) for j in candidates])
    return scores
