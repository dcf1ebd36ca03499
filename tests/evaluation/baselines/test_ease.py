import numpy as np
import pytest

from fisher_ld.evaluation.baselines.ease import Ease, ease_weights
from tests.evaluation.baselines.likes import likes, lists_of, many, slowly


def columnwise(x, ridge):
    """B by what it minimises: each item from all others, by ridge regression."""
    n_items = x.shape[1]
    weights = np.zeros((n_items, n_items))
    for item in range(n_items):
        others = np.arange(n_items) != item
        gram = x[:, others].T @ x[:, others] + ridge * np.eye(n_items - 1)
        weights[others, item] = np.linalg.solve(gram, x[:, others].T @ x[:, item])
    return weights


@pytest.mark.parametrize("ridge", [1.0, 50.0])
def test_weights_are_the_ridge_regression_of_each_item_on_the_others(ridge):
    known, lists = many()
    expected = columnwise(known.matrix.toarray().astype(float), ridge)
    found = Ease.fit(known, ridge=ridge, decay=0.8).score(lists)
    np.testing.assert_allclose(found, slowly(lists, 0.8, expected), rtol=1e-3, atol=1e-5)


def test_what_nobody_likes_scores_0():
    first = Ease.fit(likes(), ridge=1.0, decay=1.0).score(lists_of([0], [2], [[3, 2, 4]]))[0]
    assert first[[0, 2]].tolist() == [0, 0] and first[1] > 0


def test_of_a_large_catalogue_the_most_liked_items_have_weights(capsys):
    chosen, weights = ease_weights(likes(), 1.0, largest=2)
    assert weights.shape == (2, 2)
    assert np.flatnonzero(chosen.sum(axis=1)).tolist() == [0, 1]  # liked by 3, 3 and 2
    assert "3 items are liked; the 2 most liked have weights" in capsys.readouterr().out
