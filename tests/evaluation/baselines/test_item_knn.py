import numpy as np
import pytest

from fisher_ld.evaluation.baselines.item_knn import ItemKNN, nearest
from tests.evaluation.baselines.likes import likes, lists_of, many, slowly

C01, C02, C12 = 2 / 3, 1 / 6**0.5, 2 / 6**0.5  # cosines of the items of SEQUENCES


def scores(lists, neighbours=50, decay=1.0):
    return ItemKNN.fit(likes(), neighbours=neighbours, decay=decay).score(lists)


def test_item_knn_by_hand():
    # user 3 at position 1 has liked 0; user 0 at position 2 has liked 0 and 1
    lists = lists_of([3, 0], [1, 2], [[1, 2, 3], [2, 4]])
    assert scores(lists)[0] == pytest.approx([C01, C02, 0])
    assert scores(lists)[1] == pytest.approx([C02 + C12, 0])
    assert scores(lists, decay=0.5)[1] == pytest.approx([0.5 * C02 + C12, 0])


def test_item_knn_sees_the_history_of_the_prompt():
    lists = lists_of([0], [2], [[2]], start=1)  # user 0 has liked 0 and 1, the prompt starts with 1
    assert scores(lists)[0] == pytest.approx([C12])


def test_an_item_is_no_neighbour_of_its_own():
    assert scores(lists_of([0], [3], [[2]]))[0] == pytest.approx([C02 + C12])  # 2 is liked itself


def test_item_knn_keeps_the_nearest_of_the_candidate():
    # the nearest of 2 is 1, so that a liked 0 counts nothing; the nearest of 0 is 1, and of 1 is 2
    lists = lists_of([3, 0], [1, 2], [[1, 2], [2, 0]])
    assert scores(lists, 1)[0] == pytest.approx([0, 0])
    assert scores(lists, 1)[1] == pytest.approx([C12, C01])


@pytest.mark.parametrize("k", [1, 3, 200])
@pytest.mark.parametrize("block", [7, 1024])
def test_neighbours_against_the_dense_formula(k, block):
    known, lists = many()
    dense = known.matrix.toarray().astype(float)
    norm = np.maximum(np.linalg.norm(dense, axis=0), 1e-9)
    similar = dense.T @ dense / np.outer(norm, norm)
    np.fill_diagonal(similar, 0)
    for row in similar:
        row[np.lexsort((np.arange(60), -row.astype(np.float32)))[k:]] = 0
    np.testing.assert_allclose(nearest(known, k, block).toarray(), similar, rtol=1e-5)
    found = ItemKNN.fit(known, neighbours=k, decay=0.8).score(lists)
    np.testing.assert_allclose(found, slowly(lists, 0.8, similar.T), rtol=1e-5, atol=1e-7)
