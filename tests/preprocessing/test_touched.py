import numpy as np
import pytest

from fisher_ld.preprocessing.touched import Touched, pair_keys

N_ITEMS = 5
PAIRS = {(0, 1): 0, (0, 2): 1, (0, 4): 3, (2, 0): 0, (2, 1): 0}  # (user, item): since


@pytest.fixture
def touched():
    users, items = np.array(sorted(PAIRS)).T
    since = np.array([PAIRS[pair] for pair in sorted(PAIRS)])
    return Touched(pair_keys(users, items, N_ITEMS), since, N_ITEMS)


NOBODY = Touched(np.array([], np.int64), np.array([], np.int64), N_ITEMS)


def test_contains_is_whenever(touched):
    users, items = np.meshgrid(range(3), range(N_ITEMS), indexing="ij")
    found = {(int(u), int(i)) for u, i in np.argwhere(touched.contains(users, items))}
    assert found == set(PAIRS)
    assert not NOBODY.contains(users, items).any()


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (None, [(0, 1), (0, 2), (0, 4), (2, 0), (2, 1), (3, 1), (3, 2), (3, 4)]),
        ([1, 9, 9, 0], [(0, 1), (0, 2), (2, 0), (2, 1), (3, 1)]),
    ],
)
def test_by_lists_what_each_had_touched_by_then(touched, last, expected):
    users = np.array([0, 1, 2, 0])
    rows, items = touched.by(users, None if last is None else np.array(last))
    assert list(zip(rows.tolist(), items.tolist(), strict=True)) == expected
    assert [part.tolist() for part in NOBODY.by(users, None)] == [[], []]


def test_left_counts_what_is_not_touched_yet(touched):
    pool = np.array([True, True, True, False, True])
    users = np.array([0, 0, 0, 0, 1, 2])
    assert touched.left(users, None, pool).tolist() == [1, 1, 1, 1, 4, 2]
    assert touched.left(users, np.array([0, 1, 2, 3, 9, 0]), pool).tolist() == [3, 2, 2, 1, 4, 2]
    assert touched.left(users[:1], None, np.array([True, False, True, False, False])).tolist() == [1]
    assert NOBODY.left(users[:1], None, pool).tolist() == [4]
