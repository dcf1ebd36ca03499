import numpy as np
import polars as pl
import pytest

from fisher_ld.evaluation.baselines.interactions import first_likes, likes_of, read_interactions
from tests.evaluation.baselines.likes import COUNTS, SEQUENCES, likes, lists_of


def test_likes_end_at_the_count_of_each_user():
    expected = [[1, 1, 1, 0, 0], [1, 1, 0, 0, 0], [0, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    np.testing.assert_array_equal(likes().matrix.toarray(), expected)
    np.testing.assert_array_equal(likes().count, [3, 3, 2, 0, 0])


def test_a_repeated_item_counts_once():
    np.testing.assert_array_equal(first_likes([np.array([1, 1])], [2], 2).matrix.toarray(), [[0, 1]])


def test_a_count_for_every_user():
    with pytest.raises(ValueError, match="shorter"):
        first_likes(SEQUENCES, COUNTS[:3], 5)


def test_a_window_tells_its_history_and_positives_and_each_like_is_told_once():
    sequences = [np.arange(10, 20), np.arange(30, 34), np.arange(5)]
    # user 0: windows of places 0..3 and 2..4, which overlap, and 6..8; user 1: places 1..2; user 2: none
    user, start, position = [0, 0, 1, 0, 0], [0, 2, 1, 6, 0], [3, 4, 2, 8, 2]
    told = likes_of(lists_of(user, position, [[0]] * 5, start, sequences), 40)
    assert told.users.tolist() == [0, 0, 1]
    assert [run.tolist() for run in told.runs] == [[10, 11, 12, 13, 14], [16, 17, 18], [31, 32]]
    assert told.matrix.sum() == 10


def test_same_labels_are_those_of_the_labelled_windows_alone(tmp_path):
    pl.DataFrame({"item": range(5)}).write_parquet(tmp_path / "items.parquet")
    pl.DataFrame({"user": range(4), "train_positives": COUNTS}).write_parquet(tmp_path / "users.parquet")
    pl.DataFrame({"user": range(4), "items": SEQUENCES}).write_parquet(tmp_path / "sequences.parquet")
    labelled = {"list": range(2), "user": 0, "start": 0, "position": [1, 2], "positive": [0, 1]}
    candidates = pl.Series([[1, 3], [4, 2]])
    pl.DataFrame(labelled).with_columns(candidates=candidates).write_parquet(tmp_path / "labelled.parquet")
    same, everyone = read_interactions(tmp_path, "same"), read_interactions(tmp_path, "all")
    assert [run.tolist() for run in same.runs] == [[0, 1, 2]]
    assert same.shape == everyone.shape == (4, 5)
    np.testing.assert_array_equal(everyone.matrix.toarray(), likes().matrix.toarray())
