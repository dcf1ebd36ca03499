import polars as pl
import pytest

from fisher_ld.preprocessing.notes import note_lines, raw_notes
from fisher_ld.preprocessing.readers import INTERACTIONS, REJECTED, Raw
from tests.given import given

DATA = given().data_sets["movielens-100k"]


def warnings(ratings):
    """What is warned of these ratings, rating -> rows."""
    rows = [("u", "i", float(rating), 1_500_000_000) for rating, count in ratings.items() for _ in range(count)]
    names = ["user", "item", "rating", "timestamp"]
    likes = pl.DataFrame(rows, schema={name: INTERACTIONS[name] for name in names}, orient="row")
    items = pl.DataFrame({"item": ["i"], "title": ["Title"], "categories": [["c"]]})
    raw = Raw(likes.lazy(), items, pl.DataFrame(schema=REJECTED), {"ratings": len(rows)}, 0)
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
