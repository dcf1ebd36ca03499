import numpy as np
import pytest

from fisher_ld.preprocessing.splits import (
    COLD_TEST,
    COLD_VALIDATION,
    LABELLED,
    TRANSFER,
    UNUSED,
    WARM,
    block_starts,
    cold_items,
    cold_roles,
    folds,
    global_time,
    leave_last_out,
    stream,
    training_lists,
    window_roles,
    windows,
)
from tests.given import given


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


def test_a_fifth_of_the_items_is_cold_half_of_them_for_each_part():
    roles = cold_roles(1009, stream(0, "cold items"))
    assert np.bincount(roles).tolist() == [808, 100, 101]
    assert roles.tolist() == cold_roles(1009, stream(0, "cold items")).tolist()
    assert roles.tolist() != cold_roles(1009, stream(1, "cold items")).tolist()


def test_cold_items_by_hand():
    """Items w are warm, v for validation, t for test: the last t and v with a w before; train ends at the earlier."""
    names = ["wtwvwt", "vtw", "wvwww", "wwtvw", "www", "tv"]
    roles = {"w": WARM, "v": COLD_VALIDATION, "t": COLD_TEST}
    items, role = np.arange(sum(map(len, names))), np.array([roles[letter] for letter in "".join(names)])
    split = cold_items(items, np.cumsum([0, *map(len, names)]), role)
    assert split.test.tolist() == [5, -1, -1, 2, -1, -1]
    assert split.val.tolist() == [3, -1, 1, 3, -1, -1]
    assert split.train_end.tolist() == [3, 3, 1, 2, 3, 2]


def test_training_lists_leave_out_position_0():
    data = given({}).data_sets["movielens-100k"].model_copy(update={"history_length": 1, "history_block": 1})
    users, positions, starts = training_lists(np.array([1, 4, 0, 3]), data)
    assert users.tolist() == [1, 1, 1, 3, 3]
    assert positions.tolist() == [1, 2, 3, 1, 2]
    assert starts.tolist() == [0, 1, 2, 0, 1]


def test_positions_of_a_block_share_one_start():
    positions = np.arange(1, 12)
    starts = block_starts(np.full(11, 12), positions, history_length=5, block=3)
    #                          1  2 | 3  4  5 | 6  7  8 | 9 10 11
    assert starts.tolist() == [0, 0, 0, 0, 0, 2, 2, 2, 5, 5, 5]


@pytest.mark.parametrize(("block", "mean"), [(1, 10), (3, 10), (5, 10), (2, 10.5), (6, 10.5)])
def test_a_block_has_the_asked_history_in_the_mean(block, mean):
    positions = np.arange(1, 200)
    histories = positions - block_starts(np.full(199, 200), positions, 10, block)
    late = histories[-10 * block :]
    assert late.mean() == mean
    assert late.max() - late.min() == block - 1
    assert histories.min() == 1


def test_windows_share_user_and_start():
    users, starts = np.array([0, 0, 0, 2, 2, 3, 3]), np.array([0, 0, 4, 0, 0, 0, 1])
    assert windows(users, starts).tolist() == [0, 0, 1, 2, 2, 3, 4]
    assert windows(users[:0], starts[:0]).tolist() == []


@pytest.mark.parametrize(
    ("labelled", "transfer", "counts"),
    [
        (3, 4, [3, 3, 4]),
        (3, None, [0, 3, 7]),
        (3, 0, [7, 3, 0]),
        (None, 4, [0, 10, 0]),
        (None, None, [0, 10, 0]),
        (8, 4, [0, 8, 2]),
        (12, 4, [0, 10, 0]),
    ],
)
def test_windows_are_labelled_or_transfer_or_neither(labelled, transfer, counts):
    roles = window_roles(10, labelled, transfer, stream(0, "window roles"))
    assert [np.count_nonzero(roles == role) for role in (UNUSED, LABELLED, TRANSFER)] == counts


def test_more_labels_hold_the_fewer():
    few, many = (window_roles(50, labelled, 10, stream(0, "window roles")) for labelled in (10, 20))
    assert set(np.flatnonzero(few == LABELLED)) < set(np.flatnonzero(many == LABELLED))
    assert set(np.flatnonzero(few == TRANSFER)) < set(np.flatnonzero(many == LABELLED))


def test_folds_are_disjoint_complete_and_even():
    fold = folds(23, stream(0, "folds"))
    assert np.bincount(fold).tolist() == [5, 5, 5, 4, 4]
    assert fold.tolist() != sorted(fold.tolist())
    assert fold.tolist() == folds(23, stream(0, "folds")).tolist()
    assert fold.tolist() != folds(23, stream(1, "folds")).tolist()


def test_streams_are_independent_of_each_other():
    assert stream(0, "users").random() != stream(0, "items").random()
    assert stream(-1, "users").random() == stream(-1, "users").random()
