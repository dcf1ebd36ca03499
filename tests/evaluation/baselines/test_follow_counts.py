import numpy as np
import pytest

from fisher_ld.evaluation.baselines.follow_counts import FollowCounts, follow_counts
from fisher_ld.evaluation.baselines.interactions import Interactions
from tests.evaluation.baselines.likes import likes, lists_of, many, slowly


def test_what_follows_within_reach_is_counted_in_its_order():
    expected = np.zeros((5, 5))
    expected[0, 1] = expected[1, 2] = 2  # u0 and u1; u0 and u2
    np.testing.assert_array_equal(follow_counts(likes(), 1).toarray(), expected)
    expected[0, 2] = 1
    np.testing.assert_array_equal(follow_counts(likes(), 2).toarray(), expected)
    np.testing.assert_array_equal(follow_counts(likes(), 9).toarray(), expected)  # longer than any run


def test_nothing_follows_across_runs():
    gap = Interactions(np.array([0, 0]), [np.array([0, 1]), np.array([2])], (1, 3))
    assert follow_counts(gap, 2).toarray().tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]


def test_follow_counts_over_popularity_by_hand():
    lists = lists_of([0], [2], [[2, 1, 3]])  # after 0 and 1; popularity of 2 is 2, of 1 is 3
    halved = FollowCounts.fit(likes(), reach=2, power=1.0, decay=0.5).score(lists)[0]
    assert halved == pytest.approx([(0.5 * 1 + 2) / 2, 0.5 * 2 / 3, 0])
    plain = FollowCounts.fit(likes(), reach=1, power=0.0, decay=1.0).score(lists)[0]
    assert plain == pytest.approx([2, 2, 0])


def test_follow_counts_against_two_loops():
    known, lists = many()
    counts = np.zeros((60, 60))
    for run in known.runs:
        for place, item in enumerate(run):
            for later in run[place + 1 : place + 4]:
                counts[item, later] += 1
    relation = counts / np.maximum(known.count, 1) ** 0.5
    found = FollowCounts.fit(known, reach=3, power=0.5, decay=0.7).score(lists)
    np.testing.assert_allclose(found, slowly(lists, 0.7, relation), rtol=1e-6)
