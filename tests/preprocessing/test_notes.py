import polars as pl
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.notes import note_lines, raw_notes
from tests.given import given
from tests.raws import raw_of

DATA = given().data_sets["movielens-100k"]


def rated(ratings, time=1_500_000_000, early=0):
    """Of ratings, rating -> rows, at one time, the first `early` rows at 1.5 million seconds."""
    given = [rating for rating, count in ratings.items() for _ in range(count)]
    items = pl.DataFrame({"item": ["i"], "title": ["Title"], "categories": [["c"]]})
    return raw_of([("u", "i", rating, 1_500_000 if i < early else time) for i, rating in enumerate(given)], items)


def warnings(ratings, **times):
    """What is warned of these."""
    raw = rated(ratings, **times)
    lines = note_lines(raw_notes(raw, DATA), raw.rejected, DATA)
    return [line.removeprefix("warning: ") for line in lines if line.startswith("warning: ")]


@pytest.mark.parametrize(
    ("kept", "warned"), [(4, True), (5, False), (6, False), (94, False), (95, False), (96, True), (100, True)]
)
def test_a_threshold_that_keeps_nearly_all_or_nothing_is_warned_of(kept, warned):
    expected = [f"{kept}.0% of the ratings are positive (positive_rating: 4)"]
    assert warnings({4: kept, 1: 100 - kept}) == (expected if warned else [])


@pytest.mark.parametrize(
    ("ratings", "said"),
    [
        ({-1: 10, 0: 35, 3: 15, 5: 40}, ["35% of the ratings are 0"]),
        ({-1: 30, 0: 30, 5: 40}, ["30% of the ratings are -1", "30% of the ratings are 0"]),
        ({-1: 10, 0: 20, 5: 70}, []),
        ({0: 30, 5: 70}, ["30% of the ratings are 0"]),
        ({-2: 10, -1: 30, 0: 30, 5: 30}, []),  # a scale of its own
        ({0: 40, 1: 60}, []),
    ],
)
def test_zero_and_minus_one_are_each_warned_of_where_common(ratings, said):
    lines = [line for line in warnings(ratings) if "stands for none" in line]
    assert [line.split(";")[0] for line in lines] == said


def test_many_ratings_are_told_in_bins():
    found = raw_notes(rated({rating: 2 for rating in range(1, 26)}), DATA)["ratings"]
    assert found["lowest"] == 1 and found["highest"] == 25 and sum(found["histogram"].values()) == 50
    assert len(found["histogram"]) == 20 and found["histogram"]["1"] == 4, "1 and 2 share a bin of width 1.2"


@pytest.mark.parametrize(("early", "said"), [(0, []), (1, ["1 of 10 times lie"]), (9, ["9 of 10 times lie"])])
def test_a_time_of_another_unit_among_the_others_is_warned_of(early, said):
    """Seconds of 2017 that are read as milliseconds."""
    lines = [line for line in warnings({5: 5, 1: 5}, early=early) if "1975" in line]
    assert [line.split(" before")[0] for line in lines] == said


@pytest.mark.parametrize(
    ("lacking", "allowed", "said"),
    [
        (0, 0.95, "0.0% of the interactions"),
        (1, 0.95, "1.0% of the interactions"),
        (2, 0.95, "warning: 2.0% of the interactions"),
        (20, 0.2, "warning: 20.0% of the interactions"),
        (21, 0.2, None),
    ],
)
def test_interactions_without_their_item_are_told_warned_of_or_refused(lacking, allowed, said):
    items = pl.DataFrame({"item": ["i"], "title": ["Title"], "categories": [["c"]]})
    raw = raw_of([("u", "other" if n < lacking else "i", 5, 1_500_000_000) for n in range(100)], items)
    data = DATA.model_copy(update={"max_items_lacking": allowed})
    if said is None:
        with pytest.raises(UserError, match=r"21.0% of the interactions name an item .*'other'.*max_items_lacking"):
            raw_notes(raw, data)
    else:
        assert any(line.startswith(said) for line in note_lines(raw_notes(raw, data), raw.rejected, data))
