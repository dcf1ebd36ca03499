import numpy as np
import pytest
import scipy.sparse as sp

from fisher_ld.evaluation.baselines import histories
from fisher_ld.evaluation.baselines.histories import history_weights, score_by_history
from tests.evaluation.baselines.likes import lists_of, many, slowly


def test_an_older_like_is_worth_less_by_the_decay():
    lists = lists_of([0, 0, 3], [3, 3, 0], [[4], [4], [4]], start=[0, 1, 0])
    expected = [[0.25, 0.5, 1, 0, 0], [0, 0.5, 1, 0, 0], [0, 0, 0, 0, 0]]  # nothing before place 0
    np.testing.assert_array_equal(history_weights(lists, 5, 0.5).toarray(), expected)


@pytest.mark.parametrize("decay", [0.7, 1.0])
@pytest.mark.parametrize("block", [7, 512])
def test_scores_are_those_of_the_plain_sum(decay, block, monkeypatch):
    monkeypatch.setattr(histories, "BLOCK", block)
    _, lists = many()
    relation = np.random.default_rng(1).normal(size=(60, 60))
    expected = slowly(lists, decay, relation)
    np.testing.assert_allclose(score_by_history(lists, decay, relation), expected)
    np.testing.assert_allclose(score_by_history(lists, decay, sp.csr_array(relation)), expected)
    factor = np.random.default_rng(2).normal(size=(60, 4))
    factored = score_by_history(lists, decay, sp.csr_array(factor), factor.T)
    np.testing.assert_allclose(factored, slowly(lists, decay, factor @ factor.T))
