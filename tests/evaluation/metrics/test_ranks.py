import math
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest

from fisher_ld.evaluation.metrics.catalogue import METRICS
from fisher_ld.evaluation.metrics.ties import rank

RANKS = ("ndcg_5", "ndcg_10", "mrr", "hit_5", "hit_10", "auc")  # those of ranks alone


def measure(scores, positive):
    ranking = rank(scores, np.array(positive, dtype=int))
    return {name: METRICS[name].of(ranking) for name in RANKS}


def one(scores, positive):
    return {name: value[0] for name, value in measure([np.array(scores)], [positive]).items()}


def chance(size):
    """A constant scorer ties all; that this is chance is tested against the closed forms below."""
    return one(np.zeros(size), 0)


def test_names_and_labels_of_the_catalogue():
    labels = {"ndcg_5": "NDCG@5", "ndcg_10": "NDCG@10", "mrr": "MRR", "hit_5": "Hit@5", "hit_10": "Hit@10"}
    labels |= {"auc": "AUC", "diversity_10": "diversity@10"}
    assert {name: metric.label for name, metric in METRICS.items()} == labels
    assert list(METRICS) == list(labels)


def test_without_ties_by_hand():
    # the positive is third of six: 1 / log2(4) = 0.5; 3 of its 5 pairs are right
    found = one([9.0, 8.0, 7.0, 3.0, 2.0, 1.0], 2)
    assert found == pytest.approx({"ndcg_5": 0.5, "ndcg_10": 0.5, "mrr": 1 / 3, "hit_5": 1, "hit_10": 1, "auc": 0.6})


def test_rank_six_is_outside_of_five():
    found = one([6.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.0], 5)
    assert found["hit_5"] == found["ndcg_5"] == 0
    assert found["hit_10"] == 1
    assert found["ndcg_10"] == pytest.approx(1 / math.log2(7))
    assert found["auc"] == pytest.approx(1 / 6)


def test_tie_by_hand():
    # one better, then the positive ties with one negative: rank 2 or 3
    found = one([3.0, 2.0, 2.0, 1.0], 2)
    assert found["mrr"] == pytest.approx((1 / 2 + 1 / 3) / 2)
    assert found["ndcg_5"] == pytest.approx((1 / math.log2(3) + 1 / 2) / 2)
    assert found["auc"] == pytest.approx((4 - 2.5) / 3)  # mean rank 2.5


def test_tie_across_the_cut():
    # four better, the positive is at rank 5 or 6
    found = one([9.0, 8.0, 7.0, 6.0, 1.0, 1.0], 4)
    assert found["hit_5"] == 0.5
    assert found["ndcg_5"] == pytest.approx(0.5 / math.log2(6))


def test_ties_are_the_mean_over_all_orders():
    scores = np.array([1.0, 2.0, 1.0, 1.0, 0.0])
    orders = []
    for order in permutations(range(5)):
        broken = scores + 1e-3 * np.array(order)
        orders.append([one(broken, 3)[m] for m in RANKS])
    assert [one(scores, 3)[m] for m in RANKS] == pytest.approx(np.mean(orders, 0))


@pytest.mark.parametrize("size", [2, 3, 5, 7, 10, 20, 100, 101])
def test_constant_scorer_scores_exactly_chance(size):
    for positive in (0, size // 2, size - 1):
        assert one(np.full(size, 0.3, np.float32), positive) == chance(size)


@pytest.mark.parametrize("size", [1, 2, 5, 7, 10, 20, 100])
def test_chance_in_closed_form(size):
    found = chance(size)
    for k in (5, 10):
        assert found[f"hit_{k}"] == min(k, size) / size
        dcg = math.fsum(1 / math.log2(r + 1) for r in range(1, min(k, size) + 1))
        assert found[f"ndcg_{k}"] == pytest.approx(dcg / size, abs=1e-15)
    harmonic = sum(Fraction(1, r) for r in range(1, size + 1))
    assert found["mrr"] == pytest.approx(float(harmonic / size), abs=1e-15)
    assert math.isnan(found["auc"]) if size == 1 else found["auc"] == 0.5


def test_known_chance_values():
    assert chance(5)["ndcg_5"] == pytest.approx(0.590, abs=5e-4)  # 1 positive and 4 negatives
    assert chance(20)["ndcg_5"] == pytest.approx(0.147, abs=5e-4)


def test_single_candidate_has_no_pair():
    found = one([0.7], 0)
    assert math.isnan(found.pop("auc"))
    assert set(found.values()) == {1.0}


def test_lists_of_several_sizes_do_not_mix():
    lists = [np.array([1.0, 2.0]), np.array([5.0]), np.array([1.0, 9.0, 3.0, 3.0])]
    together = measure(lists, [0, 0, 2])
    for i, (scores, positive) in enumerate(zip(lists, [0, 0, 2], strict=True)):
        np.testing.assert_array_equal([together[m][i] for m in RANKS], [one(scores, positive)[m] for m in RANKS])


@pytest.mark.parametrize(
    ("scores", "positive", "message"),
    [
        ([np.array([1.0, np.nan])], [0], "finite"),
        ([np.array([1.0]), np.array([np.inf, 0.0])], [0, 0], "first in list 1"),
        ([np.array([])], [0], "no empty one"),
        ([], [], "at least one list"),
        ([np.array([1.0, 2.0])], [2], "a place within"),
        ([np.array([1.0, 2.0])], [0, 1], "a place within"),
    ],
)
def test_bad_lists_are_refused(scores, positive, message):
    with pytest.raises(ValueError, match=message):
        rank(scores, np.array(positive, dtype=int))


@pytest.mark.slow
def test_agrees_with_ranx_without_ties():
    from ranx import Qrels, Run, evaluate  # compiles for a minute

    rng = np.random.default_rng(0)
    scores = [rng.permutation(20).astype(float) for _ in range(200)]
    positive = rng.integers(0, 20, 200)
    # ranx answers in the order of the sorted query names
    qrels = Qrels({f"{i:03}": {str(p): 1} for i, p in enumerate(positive)})
    run = Run({f"{i:03}": {str(j): s for j, s in enumerate(z)} for i, z in enumerate(scores)})
    names = {"ndcg@5": "ndcg_5", "ndcg@10": "ndcg_10", "mrr": "mrr", "hit_rate@5": "hit_5", "hit_rate@10": "hit_10"}
    expected = evaluate(qrels, run, list(names), return_mean=False)
    found = measure(scores, positive)
    for theirs, ours in names.items():
        np.testing.assert_allclose(found[ours], expected[theirs], atol=1e-12)
