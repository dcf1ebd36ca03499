import numpy as np
import polars as pl
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.filters import _oldest_first, first_of, first_pairs, k_core, keep_positives
from tests.given import given
from tests.raws import raw_of


def test_the_first_of_repeats_is_kept():
    users, items = np.array([0, 0, 1, 1, 1]), np.array([2, 2, 2, 2, 0])
    assert first_pairs(users, items).tolist() == [True, False, True, False, True]
    assert first_pairs(users[:0], items[:0]).tolist() == []


@pytest.mark.parametrize("largest", [9, 2**62])  # which leaves no room for the place in one number
def test_the_first_place_of_each_key(largest):
    keys = np.random.default_rng(0).integers(0, 9, 200) * (largest // 9)
    for found, expected in zip(first_of(keys), np.unique(keys, return_index=True), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert [len(part) for part in first_of(keys[:0])] == [0, 0]


def test_k_core_cascade():
    """Item 3 is rare; without it user 2 is short; without user 2 item 2 is; then user 1 is short as well."""
    pairs = [(0, 0), (0, 1), (3, 0), (3, 1), (1, 0), (1, 2), (2, 2), (2, 3)]
    users, items = np.array(pairs).T
    assert k_core(users, items, 2, 2).tolist() == [True] * 4 + [False] * 4
    assert k_core(users, items, 2, 1).all()
    assert not k_core(users, items, 3, 2).any()


def kept(rows, seed=0, titles=("a", "b", "c"), **changes):
    data = given({"data": {"user_core": 1, "item_core": 1} | changes}).data_sets["movielens-100k"]
    return keep_positives(raw_of(rows), pl.Series(titles, dtype=pl.String), data, seed)


def names(positives):
    """user -> names of its items, oldest first."""
    items = np.split(positives.item_names[positives.items], positives.offsets[1:-1])
    return {user: list(part) for user, part in zip(positives.user_names, items, strict=True)}


def test_order_ties_repeats_and_ratings():
    rows = [
        ("u", "c", 5, 30),
        ("u", "b", 4, 10),  # tie with a: the source's order decides
        ("u", "a", 4, 10),
        ("u", "b", 5, 20),  # repeat
        ("v", "a", 3.9, 1),
        ("v", "a", 4, 2),  # the first *positive* one counts
    ]
    positives, steps = kept(rows)
    assert names(positives) == {"u": ["b", "a", "c"], "v": ["a"]}
    times = np.split(positives.timestamps, positives.offsets[1:-1])
    assert dict(zip(positives.user_names, map(list, times), strict=True)) == {"u": [10, 10, 30], "v": [2]}
    assert [(s["step"], s["users"], s["items"], s["interactions"]) for s in steps] == [
        ("read", 2, 3, 6),
        ("item with a text", 2, 3, 6),
        ("positive", 2, 3, 5),
        ("first of repeats", 2, 3, 4),
        ("k-core", 2, 3, 4),
    ]


def test_without_ratings_all_are_positive_and_items_without_text_go():
    rows = [("u", "a", None, None), ("u", "x", None, None), ("u", "b", None, None)]
    positives, steps = kept(rows)
    assert names(positives) == {"u": ["a", "b"]}
    assert positives.timestamps is None
    assert steps[1]["interactions"] == 2


def touched(positives):
    """(user, item) -> how many of the user's positives came before."""
    users, items = np.divmod(positives.touched.keys, len(positives.item_names))
    pairs = zip(positives.user_names[users], positives.item_names[items], strict=True)
    return dict(zip(pairs, positives.touched.since.tolist(), strict=True))


def test_touched_holds_what_was_not_liked():
    rows = [("u", "a", 5, 1), ("u", "b", 1, 2), ("v", "b", 5, 3), ("v", "c", 1, 4), ("w", "b", 1, 5)]
    positives, _ = kept(rows)  # c has no positive and w neither: both leave
    assert set(touched(positives)) == {("u", "a"), ("u", "b"), ("v", "b")}


def test_touched_knows_since_when():
    rows = [
        ("u", "c", 1, 0),  # before the first positive
        ("u", "a", 5, 1),
        ("u", "b", 1, 2),  # the first time, liked only later
        ("u", "d", 5, 3),
        ("u", "b", 5, 4),
        ("u", "e", 1, 5),
        ("u", "a", 1, 6),  # again: the first counts
        *(("v", item, 5, 9) for item in "ecda"),
    ]
    positives, _ = kept(rows, titles=list("abcde"))
    assert names(positives)["u"] == ["a", "d", "b"]
    since = {"c": 0, "a": 0, "b": 1, "d": 1, "e": 3}
    assert {item: n for (user, item), n in touched(positives).items() if user == "u"} == since


def test_positives_of_some_items_keep_users_and_count_places_anew():
    rows = [("u", item, 5, k) for k, item in enumerate("abcd")] + [("u", "e", 1, 9), ("v", "b", 5, 0), ("w", "e", 5, 0)]
    positives, _ = kept(rows, titles=list("abcde"))
    keep = np.isin(positives.item_names, ["a", "c", "e"])
    some = positives.only(keep)
    assert names(some) == {"u": ["a", "c"], "v": [], "w": ["e"]}
    assert {item: n for (user, item), n in touched(some).items() if user == "u"} == {
        "a": 0,
        "b": 1,
        "c": 1,
        "d": 2,
        "e": 2,
    }
    u = np.full(5, list(positives.user_names).index("u"))
    assert positives.before(keep, u, np.arange(5)).tolist() == [0, 1, 1, 2, 2]


def test_max_users_are_drawn_before_the_core():
    """Of the users with enough positives; the core is that of the sample, in which items are rarer."""
    rows = [(f"u{i}", item, 5, i) for i in range(30) for item in ("a", f"own{i}")]
    rows += [(f"short{i}", "a", 5, i) for i in range(100)]
    titles = ["a", *(f"own{i}" for i in range(30))]
    positives, steps = kept(rows, titles=titles, max_users=4, user_core=2)
    assert len(positives.user_names) == 4
    assert set(positives.item_names) == {"a", *(f"own{user[1:]}" for user in positives.user_names)}
    assert [step["step"] for step in steps[-3:]] == ["first of repeats", "max_users", "k-core"]
    assert steps[-2] == {"step": "max_users", "users": 4, "items": 5, "interactions": 8}
    again, _ = kept(rows, titles=titles, max_users=4, user_core=2)
    other, _ = kept(rows, seed=1, titles=titles, max_users=4, user_core=2)
    assert names(again) == names(positives) != names(other)
    everyone, _ = kept(rows, titles=titles, max_users=100, user_core=2)
    assert len(everyone.user_names) == 30


def test_every_item_of_a_sample_has_enough_positives_in_it():
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", f"i{i}", 5, k) for u in range(60) for k, i in enumerate(rng.choice(30, 12, replace=False))]
    titles = [f"i{i}" for i in range(30)]
    positives, steps = kept(rows, titles=titles, max_users=10, user_core=3, item_core=4)
    assert np.bincount(positives.items).min() >= 4 and positives.lengths.min() >= 3
    assert steps[-1]["items"] < steps[-2]["items"] == 30  # the core of all 60 would have kept all 30


def test_ids_are_shuffled_by_the_seed():
    rows = [(f"u{i:02d}", f"i{j:02d}", 5, j) for i in range(20) for j in range(20)]
    titles = [f"i{j:02d}" for j in range(20)]
    first, again, other = kept(rows, titles=titles)[0], kept(rows, titles=titles)[0], kept(rows, 1, titles)[0]
    assert list(first.item_names) == list(again.item_names)
    assert list(first.user_names) == list(again.user_names)
    assert sorted(first.item_names) == titles
    assert list(first.item_names) not in (titles, list(other.item_names))
    assert list(first.user_names) not in (sorted(first.user_names), list(other.user_names))


@pytest.mark.parametrize(
    ("rating", "titles", "advice"),
    [
        (5, ("a",), r"k-core 0 users, 0 items, 0 rows\. Lower user_core \(9\) or item_core \(2\)"),
        (3, ("a",), r"positive 0 users.*Lower positive_rating \(4\)"),
        (5, ("z",), r"item with a text 0 users.*No item of the interactions has a title and a text"),
    ],
)
def test_nothing_left(rating, titles, advice):
    with pytest.raises(UserError, match=advice):
        kept([("u", "a", rating, 1), ("v", "a", rating, 1)], titles=titles, user_core=9, item_core=2)


@pytest.mark.parametrize("width", [0, 1, 30, 62])
def test_rows_are_by_user_then_age_then_as_they_stand_however_wide_the_ages(width):
    rng = np.random.default_rng(width)
    users = rng.integers(0, 4, 60).astype(np.int32)
    times, order = (rng.choice(rng.integers(-(2**width), 2**width, 3), 60) for _ in range(2))
    expected = sorted(range(60), key=lambda row: (users[row], times[row], order[row]))
    assert _oldest_first(users, [times, order]).tolist() == expected
    assert _oldest_first(users, []).tolist() == sorted(range(60), key=users.__getitem__)


def test_a_large_table_is_worked_on_some_users_at_a_time_to_the_same_end(monkeypatch):
    rng = np.random.default_rng(0)
    rows = [(f"u{u}", "abcd"[i], float(r), int(t)) for u, i, r, t in rng.integers((0, 0, 2, 0), (12, 4, 6, 9), (90, 4))]
    whole, steps = kept(rows, titles=("a", "b", "c"))
    monkeypatch.setattr("fisher_ld.preprocessing.filters.AT_ONCE", 7)
    parts, again = kept(rows, titles=("a", "b", "c"))
    assert steps == again and parts.touched.n_items == whole.touched.n_items == 3
    for name in ("user_names", "item_names", "items", "timestamps", "offsets"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))
    for name in ("keys", "since"):
        np.testing.assert_array_equal(getattr(parts.touched, name), getattr(whole.touched, name))
    assert (np.diff(whole.touched.keys) > 0).all()
