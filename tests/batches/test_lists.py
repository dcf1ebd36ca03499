import numpy as np
import pytest

from fisher_ld.batches.lists import Lists, concat, read_lists, take
from fisher_ld.core.errors import UserError


def lists():
    candidates = [np.array([3, 1]), np.array([2, 0, 4]), np.array([5])]
    columns = (np.array(c) for c in ([7, 3, 7], [0, 1, 0], [4, 2, 5], [1, 0, 0]))
    return Lists(*columns, candidates, np.array([0, 2, 5, 6]), [np.arange(9)] * 8)


def test_labels_stand_at_the_positives():
    assert lists().labels().tolist() == [0, 1, 1, 0, 0, 1]


def test_the_history_ends_before_the_position():
    assert [lists().history(i).tolist() for i in range(3)] == [[0, 1, 2, 3], [1], [0, 1, 2, 3, 4]]


def test_windows_share_user_and_start():
    assert [w.tolist() for w in lists().windows()] == [[1], [0, 2]]


def test_take_and_concat_renumber():
    both = concat(take(lists(), np.array([2, 1])), lists())
    assert both.user.tolist() == [7, 3, 7, 3, 7]
    assert both.offsets.tolist() == [0, 1, 4, 6, 9, 10]
    assert [c.tolist() for c in both.candidates] == [[5], [2, 0, 4], [3, 1], [2, 0, 4], [5]]
    assert both.labels().tolist() == [1, 1, 0, 0, 0, 1, 1, 0, 0, 1]


def test_lists_that_are_not_written_yet_name_the_stage(tmp_path):
    with pytest.raises(UserError, match=r"val\.parquet: no such file; run the stage preprocess"):
        read_lists(tmp_path, "val")
