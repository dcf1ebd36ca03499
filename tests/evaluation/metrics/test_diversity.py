import numpy as np
import pytest

from fisher_ld.evaluation.metrics.catalogue import METRICS
from fisher_ld.evaluation.metrics.diversity import category_matrix
from fisher_ld.evaluation.metrics.ties import rank


def diversity(scores, candidates, categories):
    return METRICS["diversity_10"].of(rank(scores, np.zeros(len(scores), int), candidates, categories))


CATEGORIES = category_matrix([["a"], ["a", "b"], ["b"], [], [], ["a", "a"]])


def test_diversity_by_hand():
    # {a}, {a, b}: 1 - 1/2; {a}, {b}: 1; {a, b}, {b}: 1/2
    scores, candidates = [np.array([3.0, 2.0, 1.0])], [np.array([0, 1, 2])]
    assert diversity(scores, candidates, CATEGORIES) == pytest.approx([2 / 3])


def test_diversity_of_items_without_or_with_repeated_categories():
    pairs = [np.array([3, 4]), np.array([0, 3]), np.array([0, 5])]
    assert diversity([np.array([1.0, 2.0])] * 3, pairs, CATEGORIES) == pytest.approx([0, 1, 0])
    assert np.isnan(diversity([np.array([1.0, 2.0])], pairs[:1], category_matrix([[]] * 5)))  # of no data, not 0


def test_diversity_counts_only_the_top_ten():
    categories = category_matrix([["a"]] * 10 + [["b"]])
    candidates = [np.arange(11)] * 2
    scores = [np.arange(11.0, 0, -1), np.arange(11.0)]  # all a; b and nine of the a: 9 of 45 pairs differ
    assert diversity(scores, candidates, categories) == pytest.approx([0, 9 / 45])


def test_diversity_of_one_candidate_is_undefined():
    assert np.isnan(diversity([np.array([1.0])], [np.array([0])], CATEGORIES)[0])


@pytest.mark.parametrize("tied", [range(8, 12), range(12), range(9, 11), range(10, 12)])
def test_diversity_with_ties_is_the_mean_over_all_choices(tied):
    rng = np.random.default_rng(1)
    categories = category_matrix([[f"c{c}" for c in rng.choice(6, 2)] for _ in range(12)])
    scores = -np.arange(12.0)
    scores[list(tied)] = scores[min(tied)]
    drawn = [scores + 1e-3 * rng.random(12) for _ in range(4000)]
    candidates = np.arange(12)
    expected = diversity(drawn, [candidates] * len(drawn), categories)
    found = diversity([scores], [candidates], categories)[0]
    assert found == pytest.approx(expected.mean(), abs=4 * expected.std() / len(drawn) ** 0.5 + 1e-12)


def test_a_constant_scorer_has_the_mean_over_all_pairs_of_the_list():
    sets, candidates = [{"a"}, {"a", "b"}, {"b"}, set(), set(), {"a"}], np.arange(6)
    distances = [1 - len(a & b) / max(1, len(a | b)) if a | b else 0 for a in sets for b in sets]
    expected = sum(distances) / (6 * 5)
    assert diversity([np.full(6, 0.3)], [candidates], CATEGORIES) == pytest.approx([expected])


def test_diversity_asks_for_items():
    with pytest.raises(ValueError, match="a metric of items"):
        METRICS["diversity_10"].of(rank([np.array([1.0, 2.0])], np.array([0])))
