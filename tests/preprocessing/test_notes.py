import polars as pl
import pytest

from fisher_ld.preprocessing.notes import note_lines, raw_notes
from fisher_ld.preprocessing.readers import INTERACTIONS, REJECTED, Raw
from tests.given import given

DATA = given().data_sets["movielens-100k"]


def raw_of(ratings, time=1_500_000_000, early=0):
    """Of ratings, rating -> rows, at one time, the first `early` rows at 1.5 million seconds."""
    rows = [("u", "i", float(rating), time) for rating, count in ratings.items() for _ in range(count)]
    names = ["user", "item", "rating", "timestamp"]
    likes = pl.DataFrame(rows, schema={name: INTERACTIONS[name] for name in names}, orient="row")
    items = pl.DataFrame({"item": ["i"], "title": ["Title"], "categories": [["c"]]})
    likes = likes.with_columns(timestamp=pl.when(pl.int_range(pl.len()) < early).then(1_500_000).otherwise("timestamp"))
    return Raw(likes.lazy(), items, pl.DataFrame(schema=REJECTED), {"ratings": len(rows)}, 0)


def warnings(ratings, **times):
    """What is warned of these."""
    raw = raw_of(ratings, **times)
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
    found = raw_notes(raw_of({rating: 2 for rating in range(1, 26)}), DATA)["ratings"]
    assert found["lowest"] == 1 and found["highest"] == 25 and sum(found["histogram"].values()) == 50
    assert len(found["histogram"]) == 20 and found["histogram"]["1"] == 4, "1 and 2 share a bin of width 1.2"


@pytest.mark.parametrize(("early", "said"), [(0, []), (1, ["1 of 10 times lie"]), (9, ["9 of 10 times lie"])])
def test_a_time_of_another_unit_among_the_others_is_warned_of(early, said):
    """Seconds of 2017 that are read as milliseconds."""
    lines = [line for line in warnings({5: 5, 1: 5}, early=early) if "1975" in line]
    assert [line.split(" before")[0] for line in lines] == said
