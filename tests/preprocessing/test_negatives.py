import itertools

import numpy as np
import pytest

from fisher_ld.preprocessing import negatives
from fisher_ld.preprocessing.negatives import sample_negatives
from fisher_ld.preprocessing.touched import Touched, pair_keys

N_ITEMS = 6
WEIGHTS = np.array([5.0, 3.0, 0.0, 2.0, 1.0, 1.0])


def pairs(*touched, n_items=N_ITEMS):
    users, items = np.array(touched, np.int64).reshape(-1, 2).T
    keys = np.unique(pair_keys(users, items, n_items))
    return Touched(keys, np.zeros_like(keys), n_items)


def exact_chances(count, allowed):
    """Chance of each set of `count` items drawn one after the other without replacement."""
    chances = {}
    for order in itertools.permutations(allowed, count):
        chance, left = 1.0, sum(WEIGHTS[i] for i in allowed)
        for item in order:
            chance *= WEIGHTS[item] / left
            left -= WEIGHTS[item]
        chances[frozenset(order)] = chances.get(frozenset(order), 0) + chance
    return chances


@pytest.mark.parametrize("rounds", [0, 1, 6])  # 0: all lists take the exact fallback
def test_draws_follow_the_weights_without_replacement(rounds, monkeypatch):
    monkeypatch.setattr(negatives, "ROUNDS", rounds)
    n = 20_000
    drawn = sample_negatives(np.zeros(n, np.int64), 2, WEIGHTS, pairs((0, 1)), np.random.default_rng(0))
    expected = exact_chances(2, [0, 3, 4, 5])
    seen = {pair: 0 for pair in expected}
    for pair in drawn:
        seen[frozenset(pair.tolist())] += 1  # KeyError: a repeat, a touched or a weightless item
    for pair, chance in expected.items():
        assert seen[pair] / n == pytest.approx(chance, abs=4 * np.sqrt(chance * (1 - chance) / n))


def test_a_user_who_touched_almost_all_gets_what_is_left():
    touched = pairs((0, 0), (0, 1), (0, 3), (1, 4), (1, 5))
    users = np.array([0, 1, 0])
    drawn = sample_negatives(users, 2, WEIGHTS, touched, np.random.default_rng(1))
    assert {frozenset(row) for row in drawn[[0, 2]].tolist()} == {frozenset({4, 5})}
    assert set(drawn[1].tolist()) < {0, 1, 3}


def test_a_rare_rest_is_still_found():
    weights = np.array([1e12, 1.0, 1.0, 1.0])
    drawn = sample_negatives(np.arange(50), 4, weights, pairs(n_items=4), np.random.default_rng(0))
    assert np.sort(drawn, axis=1).tolist() == [[0, 1, 2, 3]] * 50


def test_many_lists_over_several_blocks():
    rng = np.random.default_rng(0)
    n_users, n_items = 500, 300
    users = np.repeat(np.arange(n_users), 200)  # 100,000 lists: more than one block
    touched = pairs(*rng.integers(0, (n_users, n_items), (20_000, 2)), n_items=n_items)
    drawn = sample_negatives(users, 4, np.ones(n_items), touched, rng)
    assert len(users) > negatives.BLOCK
    assert not touched.contains(users[:, None], drawn).any()
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert drawn.min() == 0
    assert drawn.max() == n_items - 1


def test_no_lists():
    drawn = sample_negatives(np.array([], np.int64), 3, WEIGHTS, pairs(), np.random.default_rng(0))
    assert drawn.shape == (0, 3)
