import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import Lists
from fisher_ld.core.errors import UserError
from fisher_ld.evaluation.scores import read_scores, write_scores

LISTS = Lists(
    user=np.arange(3),
    start=np.zeros(3, int),
    position=np.ones(3, int),
    positive=np.zeros(3, int),
    candidates=[np.array([1, 2]), np.array([3, 4, 5]), np.array([6])],
    offsets=np.array([0, 2, 5, 6]),
    sequences=[],
)


def test_round_trip_of_some_lists(tmp_path):
    write_scores(tmp_path / "s.parquet", [2, 0], [np.array([0.5]), np.array([1.0, 2.0])])
    found = read_scores(tmp_path / "s.parquet", LISTS, whole=False)
    np.testing.assert_array_equal(found.numbers, [0, 2])
    np.testing.assert_array_equal(found.values[0], np.array([1, 2], np.float32))
    np.testing.assert_array_equal(found.values[1], np.array([0.5], np.float32))
    assert pl.read_parquet_schema(tmp_path / "s.parquet") == {"list": pl.Int32, "scores": pl.List(pl.Float32)}


def test_scores_of_all_lists_are_asked_for_unless_a_part_is_enough(tmp_path):
    write_scores(tmp_path / "s.parquet", [2, 0], [np.array([0.5]), np.array([1.0, 2.0])])
    with pytest.raises(UserError, match="expected all 3 lists, got 2"):
        read_scores(tmp_path / "s.parquet", LISTS)


@pytest.mark.parametrize(
    ("numbers", "scores", "message"),
    [
        ([], [], "at least one list"),
        ([0, 3], [[1, 2], [1]], "other lists than preprocess wrote"),
        ([-1], [[1, 2]], "other lists"),
        ([0, 0], [[1, 2], [1, 2]], "at most once"),
        ([1], [[1, 2]], "list 1 has 3 candidates, 2 scores"),
        ([0], [[1, np.nan]], "list 0 has scores that are not finite"),
    ],
)
def test_scores_that_do_not_fit_are_refused(tmp_path, numbers, scores, message):
    write_scores(tmp_path / "s.parquet", numbers, [np.array(s) for s in scores])
    with pytest.raises(UserError, match=message) as error:
        read_scores(tmp_path / "s.parquet", LISTS, whole=False)
    assert "s.parquet" in str(error.value)


def test_missing_scores(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        read_scores(tmp_path / "none.parquet", LISTS)
