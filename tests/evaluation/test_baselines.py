import numpy as np
import pytest

from fisher_ld.batches.lists import Lists
from fisher_ld.evaluation.baselines import ItemKNN, Popularity, baseline_scores, interactions

# four users, five items; what lies behind a user's cut-off must not be learned from
SEQUENCES = [np.array(s) for s in ([0, 1, 2, 4], [0, 1, 3], [1, 2], [0, 4, 3])]
CUT_OFFS = np.array([3, 2, 2, 1])
# train: u0 {0, 1, 2}, u1 {0, 1}, u2 {1, 2}, u3 {0}; counts 3 3 2 0 0
# cosine: (0,1) 2/3; (0,2) 1/sqrt 6; (1,2) 2/sqrt 6
C01, C02, C12 = 2 / 3, 1 / 6**0.5, 2 / 6**0.5


def make_lists(user, position, candidates, start=0, sequences=SEQUENCES):
    candidates = [np.array(c) for c in candidates]
    n = len(candidates)
    offsets = np.concatenate([[0], np.cumsum([len(c) for c in candidates])])
    return Lists(
        np.array(user), np.full(n, start), np.array(position), np.zeros(n, int), candidates, offsets, sequences
    )


def matrix():
    return interactions(SEQUENCES, CUT_OFFS, 5)


def test_interactions_end_at_the_cut_off():
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    np.testing.assert_array_equal(matrix().toarray(), expected)


def test_a_repeated_item_counts_once():
    np.testing.assert_array_equal(interactions([np.array([1, 1])], np.array([2]), 2).toarray(), [[0, 1]])


def test_a_cut_off_for_every_user():
    with pytest.raises(ValueError, match="one cut-off a user, got 3 for 4 users"):
        interactions(SEQUENCES, CUT_OFFS[:3], 5)


def test_popularity_by_hand():
    lists = make_lists([0, 2], [3, 2], [[4, 0, 2], [1, 3]])
    scores = Popularity.fit(matrix()).score(lists)
    np.testing.assert_array_equal(scores[0], [0, 3, 2])
    np.testing.assert_array_equal(scores[1], [3, 0])


def test_item_knn_by_hand():
    # user 3 at position 1 has liked 0; user 0 at position 2 has liked 0 and 1
    lists = make_lists([3, 0], [1, 2], [[1, 2, 3], [2, 4]])
    scores = ItemKNN.fit(matrix(), k=50).score(lists)
    assert scores[0] == pytest.approx([C01, C02, 0])
    assert scores[1] == pytest.approx([C02 + C12, 0])


def test_item_knn_sees_the_history_of_the_prompt():
    lists = make_lists([0], [2], [[2]], start=1)  # user 0 has liked 0 and 1, the prompt starts with 1
    assert ItemKNN.fit(matrix(), k=50).score(lists)[0] == pytest.approx([C12])


def test_item_knn_keeps_the_nearest_of_the_candidate():
    # the nearest of 2 is 1 (.816), so that a liked 0 counts nothing; the nearest of 0 is 1 (.667)
    lists = make_lists([3, 0], [1, 2], [[1, 2], [2, 0]])
    scores = ItemKNN.fit(matrix(), k=1).score(lists)
    assert scores[0] == pytest.approx([0, 0])  # the nearest of 1 is 2
    assert scores[1] == pytest.approx([C12, C01])


def test_history_is_all_before_the_position_and_nothing_after():
    knn = ItemKNN.fit(matrix(), k=50)
    before = knn.score(make_lists([0, 0], [1, 3], [[2], [2]]))
    assert before[0] == pytest.approx([C02])
    assert before[1] == pytest.approx([C02 + C12])  # its own place in the history counts nothing
    again = knn.score(make_lists([3], [0], [[0, 1, 2]]))
    assert again[0] == pytest.approx([0, 0, 0])  # nothing liked yet, nothing left over from other users


@pytest.mark.parametrize("k", [1, 3, 200])
@pytest.mark.parametrize("block", [7, 1024])
def test_item_knn_against_the_dense_formula(k, block):
    rng = np.random.default_rng(0)
    sequences = [rng.permutation(60)[: rng.integers(1, 20)] for _ in range(40)]
    train = interactions(sequences, np.array([len(s) for s in sequences]), 60)
    dense = train.toarray().astype(float)
    norm = np.maximum(np.linalg.norm(dense, axis=0), 1e-9)
    similar = dense.T @ dense / np.outer(norm, norm)
    np.fill_diagonal(similar, 0)
    for row in similar:
        row[np.lexsort((np.arange(60), -row.astype(np.float32)))[k:]] = 0
    sequences[5] = rng.permutation(60)[:10]
    lists = make_lists([5, 9], [4, 1], [np.arange(60), np.arange(30)], sequences=sequences)
    found = ItemKNN.fit(train, k, block).score(lists)
    for i in range(2):
        history = sequences[lists.user[i]][: lists.position[i]]
        np.testing.assert_allclose(found[i], similar[lists.candidates[i]][:, history].sum(1), rtol=1e-5, atol=1e-7)


def test_both_baselines_at_once():
    lists = make_lists([3], [1], [[1, 2, 3]])
    scores = baseline_scores(lists, CUT_OFFS, 5, k=50)
    assert list(scores) == ["popularity", "item-knn"]
    assert scores["popularity"][0] == pytest.approx([3, 2, 0])
    assert scores["item-knn"][0] == pytest.approx([C01, C02, 0])
