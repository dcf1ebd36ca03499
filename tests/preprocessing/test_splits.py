import numpy as np

from fisher_ld.preprocessing.splits import block_starts, folds, global_time, leave_last_out, stream, train_positions


def test_leave_last_out():
    split = leave_last_out(np.array([5, 3, 2, 1]))
    assert split.test.tolist() == [4, 2, 1, -1]  # one positive alone has no history
    assert split.val.tolist() == [3, 1, -1, -1]
    assert split.train_end.tolist() == [3, 1, 0, 0]


def test_global_time():
    """Users with (positives before the cut-off, all): the first after it is test, the last before it validation."""
    before, lengths = np.array([3, 5, 0, 1, 2]), np.array([5, 5, 4, 3, 3])
    split = global_time(lengths, before)
    assert split.test.tolist() == [3, -1, -1, 1, 2]
    assert split.val.tolist() == [2, 4, -1, -1, 1]
    assert split.train_end.tolist() == [2, 4, 0, 0, 1]


def test_train_positions_keep_the_latest_and_leave_out_position_0():
    train_end = np.array([1, 4, 9, 2])
    users, positions = train_positions(train_end, np.array([0, 1, 2]), 4)
    assert users.tolist() == [1, 1, 1, 2, 2, 2, 2]
    assert positions.tolist() == [1, 2, 3, 5, 6, 7, 8]
    users, positions = train_positions(train_end, np.array([2, 3]), None)
    assert users.tolist() == [2] * 8 + [3]
    assert positions.tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 1]


def test_positions_of_a_block_share_one_start():
    positions = np.arange(1, 12)
    starts = block_starts(np.full(11, 12), positions, history_length=5, block=3)
    #                          1  2 | 3  4  5 | 6  7  8 | 9 10 11
    assert starts.tolist() == [0, 0, 0, 0, 0, 3, 3, 3, 6, 6, 6]
    assert (positions - starts)[[1, 4, 7, 10]].tolist() == [2, 5, 5, 5]
    starts = block_starts(np.full(11, 12), positions, 5, 5)
    #                          1 | 2  3  4  5  6 | 7  8  9 10 11
    assert starts.tolist() == [0, 1, 1, 1, 1, 1, 6, 6, 6, 6, 6]


def test_folds_are_disjoint_complete_and_even():
    fold = folds(23, stream(0, "folds"))
    assert np.bincount(fold).tolist() == [5, 5, 5, 4, 4]
    assert fold.tolist() != sorted(fold.tolist())
    assert fold.tolist() == folds(23, stream(0, "folds")).tolist()
    assert fold.tolist() != folds(23, stream(1, "folds")).tolist()


def test_streams_are_independent_of_each_other():
    assert stream(0, "users").random() != stream(0, "items").random()
    assert stream(-1, "users").random() == stream(-1, "users").random()
