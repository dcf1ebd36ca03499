import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Rivals
from fisher_ld.core.errors import UserError
from fisher_ld.evaluation.baselines.catalogue import RIVALS, Rival, fit_rivals, load_rivals
from fisher_ld.evaluation.baselines.interactions import interactions
from fisher_ld.evaluation.baselines.item_knn import ItemKNN
from fisher_ld.evaluation.baselines.popularity import Popularity
from fisher_ld.evaluation.comparisons import pairs
from fisher_ld.evaluation.per_user import scored_models
from tests.given import given

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
    scores = Popularity.fit(matrix(), Rivals(neighbours=50)).score(lists)
    np.testing.assert_array_equal(scores[0], [0, 3, 2])
    np.testing.assert_array_equal(scores[1], [3, 0])


def test_item_knn_by_hand():
    # user 3 at position 1 has liked 0; user 0 at position 2 has liked 0 and 1
    lists = make_lists([3, 0], [1, 2], [[1, 2, 3], [2, 4]])
    scores = ItemKNN.fit(matrix(), Rivals(neighbours=50)).score(lists)
    assert scores[0] == pytest.approx([C01, C02, 0])
    assert scores[1] == pytest.approx([C02 + C12, 0])


def test_item_knn_sees_the_history_of_the_prompt():
    lists = make_lists([0], [2], [[2]], start=1)  # user 0 has liked 0 and 1, the prompt starts with 1
    assert ItemKNN.fit(matrix(), Rivals(neighbours=50)).score(lists)[0] == pytest.approx([C12])


def test_item_knn_keeps_the_nearest_of_the_candidate():
    # the nearest of 2 is 1 (.816), so that a liked 0 counts nothing; the nearest of 0 is 1 (.667)
    lists = make_lists([3, 0], [1, 2], [[1, 2], [2, 0]])
    scores = ItemKNN.fit(matrix(), Rivals(neighbours=1)).score(lists)
    assert scores[0] == pytest.approx([0, 0])  # the nearest of 1 is 2
    assert scores[1] == pytest.approx([C12, C01])


def test_history_is_all_before_the_position_and_nothing_after():
    knn = ItemKNN.fit(matrix(), Rivals(neighbours=50))
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
    found = ItemKNN.fit(train, Rivals(neighbours=k), block).score(lists)
    for i in range(2):
        history = sequences[lists.user[i]][: lists.position[i]]
        np.testing.assert_allclose(found[i], similar[lists.candidates[i]][:, history].sum(1), rtol=1e-5, atol=1e-7)


@pytest.fixture
def processed(tmp_path):
    folder = tmp_path / "processed"
    folder.mkdir()
    pl.DataFrame({"item": range(5)}).write_parquet(folder / "items.parquet")
    pl.DataFrame({"user": range(4), "train_positives": CUT_OFFS}).write_parquet(folder / "users.parquet")
    pl.DataFrame({"user": range(4), "items": SEQUENCES}).write_parquet(folder / "sequences.parquet")
    return folder


def test_all_rivals_are_fitted_and_come_back_as_they_were(processed, tmp_path):
    folder = tmp_path / "rivals"
    fitted = fit_rivals(processed, Rivals(neighbours=1), folder)
    loaded = load_rivals(folder)
    assert list(loaded) == list(fitted) == list(RIVALS) == ["popularity", "item-knn"]
    assert {file.suffix for file in folder.rglob("*") if file.is_file()} == {".safetensors"}
    lists = make_lists([3, 0], [1, 2], [[1, 2, 3], [2, 0]])
    for name in RIVALS:
        for kept, back in zip(fitted[name].score(lists), loaded[name].score(lists), strict=True):
            np.testing.assert_array_equal(kept, back)
    assert loaded["popularity"].score(lists)[0] == pytest.approx([3, 2, 0])
    assert loaded["item-knn"].score(lists)[1] == pytest.approx([C12, C01])


def test_a_rival_that_was_not_fitted_is_named(tmp_path):
    with pytest.raises(UserError, match="rivals/popularity: no such rival; run the stage rivals"):
        load_rivals(tmp_path / "rivals")


class First:
    """Likes the first candidate."""

    @classmethod
    def fit(cls, matrix, rivals):
        return cls()

    def score(self, lists):
        return [np.arange(len(candidates), 0.0, -1) for candidates in lists.candidates]

    def save(self, folder):
        (folder / "first.json").write_text("{}")

    @classmethod
    def load(cls, folder):
        assert (folder / "first.json").is_file()
        return cls()


def test_a_rival_is_a_row(processed, tmp_path, monkeypatch):
    monkeypatch.setitem(RIVALS, "first", Rival("the first", First))
    fit_rivals(processed, Rivals(neighbours=1), tmp_path / "rivals")
    lists = make_lists([3], [1], [[1, 2, 3]])
    assert load_rivals(tmp_path / "rivals")["first"].score(lists)[0].tolist() == [3, 2, 1]
    assert ("rivals/first", 0) in scored_models(given().run)
    models = {name: [] for name in ("teacher", "rivals/first", "small/fisher-ld")}
    chosen = [pair for _, _, group in pairs(models) for pair in group]
    assert chosen == [("teacher", "rivals/first"), ("small/fisher-ld", "teacher"), ("small/fisher-ld", "rivals/first")]
