import numpy as np
import pytest

from fisher_ld.preprocessing.matched import matched_negatives
from fisher_ld.preprocessing.touched import Touched, pair_keys


def touch(pairs, n_items):
    """{(user, item): since}"""
    keys = np.array([pair_keys(np.array(u), np.array(i), n_items) for u, i in pairs], np.int64)
    order = np.argsort(keys)
    return Touched(keys[order], np.array(list(pairs.values()), np.int64)[order], n_items)


def draw(users, positives, count, popularity, pairs=None, last=None, pool=None, seed=0):
    popularity = np.asarray(popularity)
    pool = np.ones(len(popularity), bool) if pool is None else pool
    touched = touch(pairs or {}, len(popularity))
    rng = np.random.default_rng(seed)
    last = None if last is None else np.array(last)
    return matched_negatives(np.array(users), np.array(positives), last, count, popularity, pool, touched, rng)


def test_negatives_are_the_nearest_in_popularity_whatever_lies_below():
    n = 300
    drawn = draw([0] * n, [5] * n, 3, np.arange(11) * 10)
    seen = {tuple(sorted(row)) for row in drawn.tolist()}
    assert seen == {(2, 3, 4), (3, 4, 6), (4, 6, 7), (6, 7, 8)}
    above = (drawn > 5).sum(1)
    assert np.bincount(above, minlength=4) == pytest.approx(n / 4, abs=4)


def test_at_an_end_there_is_one_side_only():
    drawn = draw([0] * 40, [0] * 20 + [10] * 20, 3, np.arange(11))
    assert {tuple(sorted(row)) for row in drawn[:20].tolist()} == {(1, 2, 3)}
    assert {tuple(sorted(row)) for row in drawn[20:].tolist()} == {(7, 8, 9)}


def test_what_was_touched_by_then_is_passed_over_and_what_comes_later_is_not():
    pairs = {(0, 4): 0, (0, 6): 2, (1, 7): 0, (0, 5): 1}
    later, before = (draw([0] * 60, [5] * 60, 2, np.arange(11), pairs, [last] * 60) for last in (1, 2))
    assert {tuple(sorted(row)) for row in later.tolist()} == {(2, 3), (3, 6), (6, 7)}
    assert {tuple(sorted(row)) for row in before.tolist()} == {(2, 3), (3, 7), (7, 8)}
    ever = draw([0] * 60, [5] * 60, 2, np.arange(11), pairs)
    assert {tuple(sorted(row)) for row in ever.tolist()} == {(2, 3), (3, 7), (7, 8)}


def test_only_the_pool_is_drawn_from():
    pool = np.arange(12) % 3 == 0
    drawn = draw([0] * 60, [6] * 60, 2, np.arange(12), {(0, 4): 0}, pool=pool)
    assert {tuple(sorted(row)) for row in drawn.tolist()} == {(0, 3), (3, 9)}  # of 9 alone there are not two


def test_ties_are_broken_anew():
    n = 2000
    drawn = draw([0] * n, [0] * n, 2, [1] * 8 + [9])
    shares = np.bincount(drawn.ravel(), minlength=9) / drawn.size
    assert shares[1:8] == pytest.approx(1 / 7, abs=0.08)  # eight orders for the lists, one a block
    assert shares[0] == 0 and shares[8] < 0.1
    assert (drawn[:, 0] != drawn[:, 1]).all()


@pytest.mark.parametrize(("items", "count", "lists"), [(400, 19, 3000), (60, 4, 500)])
@pytest.mark.parametrize("distinct", [True, False])
def test_the_positive_is_of_any_popularity_among_its_list(items, count, lists, distinct):
    """A simulated catalogue, few items with most of the likes: uniform over all lists, so that neither popularity nor
    its inverse ranks better than chance, although positives near the top have no neighbours above."""
    rng = np.random.default_rng(1)
    rates = 1 / np.arange(10, items + 10)
    popularity = rng.permutation(items) if distinct else rng.poisson(600 * rates)
    by_rank = np.argsort(-popularity, kind="stable")
    positives = by_rank[rng.choice(items, lists, p=rates / rates.sum())]
    drawn = draw(np.arange(lists), positives, count, popularity)
    noise = 0 if distinct else rng.random(items) / 2  # ties in random order
    scores = popularity + noise
    place = (scores[drawn] > scores[positives][:, None]).sum(1)
    shares = np.bincount(place, minlength=count + 1) * (count + 1) / lists
    assert abs(place.mean() - count / 2) < (0.02 if distinct else 0.06) * count
    if distinct:
        assert shares == pytest.approx(1, abs=0.2)
    top = np.isin(positives, by_rank[: count // 2])
    assert top.mean() > 0.05
    assert place[top].mean() < 0.4 * count  # they alone are not


def test_more_lists_than_a_block_and_none():
    drawn = draw(np.arange(700) % 7, np.arange(700) % 50, 4, np.arange(50) // 3)
    assert drawn.shape == (700, 4)
    assert (drawn != (np.arange(700) % 50)[:, None]).all()
    assert (np.diff(np.sort(drawn, axis=1), axis=1) > 0).all()
    assert draw(np.zeros(0, int), np.zeros(0, int), 4, np.arange(9)).shape == (0, 4)
