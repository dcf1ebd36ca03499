import numpy as np

from fisher_ld.evaluation.baselines.inverse_popularity import InversePopularity
from fisher_ld.evaluation.baselines.popularity import Popularity
from tests.evaluation.baselines.likes import likes, lists_of

LISTS = lists_of([0, 2], [3, 2], [[4, 0, 2], [1, 3]])


def test_popularity_counts_the_users_who_like_an_item():
    first, second = Popularity.fit(likes()).score(LISTS)
    np.testing.assert_array_equal(first, [0, 3, 2])
    np.testing.assert_array_equal(second, [3, 0])


def test_inverse_popularity_is_the_other_order():
    first, second = InversePopularity.fit(likes()).score(LISTS)
    np.testing.assert_array_equal(first, [0, -3, -2])
    np.testing.assert_array_equal(second, [-3, 0])
