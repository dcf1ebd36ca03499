import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import list_file
from fisher_ld.config.paths import for_tests
from fisher_ld.evaluation.metrics.ndcg import ndcg
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.preprocessing.report import data_report, popularity_lines
from tests.given import given

STEPS = [
    {"step": "read", "users": 10, "items": 20, "interactions": 100},
    {"step": "max_users", "users": 5, "items": 10, "interactions": 30},
    {"step": "k-core", "users": 4, "items": 4, "interactions": 12},
]
LISTS = {  # user, start, position, place of the positive
    "labelled": [(2, 0, 1, 0), (2, 0, 2, 0)],
    "transfer": [(0, 1, 3, -1)],
    "val": [(0, 1, 4, 1), (2, 0, 3, 0)],
    "test_matched": [(0, 1, 5, 2)],
    "test_uniform": [(0, 1, 5, 0)],
}
CANDIDATES = [3, 1, 0]
DATA = given({}).data_sets["movielens-100k"].model_copy(update={"history_length": 2, "history_block": 1})
NONE_REJECTED = pl.DataFrame(schema=dict.fromkeys(("file", "row", "reason", "raw"), pl.String))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "processed"
    for made in (folder, for_tests(folder)):
        made.mkdir()
    users = {"length": [2, 2, 3, 5], "train_positives": [4, 0, 3, 0], "fold": [0, 1, 2, 0]}
    pl.DataFrame(users).write_parquet(folder / "users.parquet")
    items = {"count": [0, 1, 1, 2], "total": [9, 2, 2, 3], "cold": [True, False, False, False]}
    items |= {"text": ["A", "A", "B", "C"], "categories": [["x"], [], ["x"], ["y"]]}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    for name, rows in LISTS.items():
        lists = pl.DataFrame(rows, schema=["user", "start", "position", "positive"], orient="row")
        lists = lists.with_columns(candidates=pl.Series([CANDIDATES] * len(rows)))
        lists.write_parquet(list_file(folder, name))
    return folder


@pytest.fixture
def report(folder):
    rejected = pl.DataFrame({"file": ["a", "a", "b"], "row": [1, 2, 3], "reason": ["x", "x", "y"], "raw": [""] * 3})
    return data_report(folder, for_tests(folder), DATA, rejected, {"a": 50, "b": 10}, STEPS, 0.25)


def test_numbers(report):
    assert report["lost"] == pytest.approx({"users": 0.2, "items": 0.6, "interactions": 0.6})  # of the sample
    assert report["sparsity"] == pytest.approx({"before": 0.5, "after": 0.25})
    assert report["history_length"]["median"] == 2.5
    assert report["history_length"]["mean"] == 3
    assert (report["history_length"]["min"], report["history_length"]["max"]) == (2, 5)
    assert report["items_without_train_positive"] == 1
    assert report["items_without_category"] == 1
    assert report["items_that_share_a_text"] == 2
    assert report["rejected"]["share"] == pytest.approx(0.05)
    assert report["rejected"]["by_reason"] == [
        {"file": "a", "reason": "x", "rows": 2},
        {"file": "b", "reason": "y", "rows": 1},
    ]
    lists = {"labelled": 2, "transfer": 1, "val": 2, "test_matched": 1, "test_uniform": 1}
    assert report["lists"] == {"train": 5} | lists
    assert report["examples"] == {name: 3 * count for name, count in lists.items()}
    assert report["folds"] == [2, 1, 1]
    assert report["cold_items"] == 1


def test_what_is_read_and_what_labels_are_seen(report):
    assert report["windows"] == {"all": 3, "labelled": 1, "transfer": 1}
    assert report["read"] == {"teacher": 1, "student": 2, "both": 1}
    assert report["labels"] == {"train": 2, "likes": 3, "val": 2}  # places 0 to 2 of user 2
    assert report["val_and_test_share_a_time"] == 0.25


def test_mean_likes_in_the_prompts(report):
    assert report["mean_likes"] == {"train": 1.6, "labelled": 1.5, "transfer": 2, "val": 3, "test": 4}


def test_popularity_is_scored_as_the_metric_does(report, folder):
    """Training positives of a warm item, all of a cold one: 2, 1 and 9 of the three candidates."""
    scores = np.array([2.0, 1.0, 9.0])
    for name in ("val", "test_matched"):
        positive = np.array([row[3] for row in LISTS[name]])
        each = [scores] * len(positive)
        expected = {
            "popularity": ndcg(rank(each, positive), 10).mean(),
            "inverse": ndcg(rank([-s for s in each], positive), 10).mean(),
            "chance": ndcg(rank([0 * s for s in each], positive), 10).mean(),
        }
        assert report["popularity_ndcg_10"][name] == pytest.approx(expected)
    items = pl.read_parquet(folder / "items.parquet")
    items.with_columns(count=pl.lit(7), cold=pl.lit(False)).write_parquet(folder / "items.parquet")
    tied = data_report(folder, for_tests(folder), DATA, NONE_REJECTED, {"a": 50}, STEPS, None)["popularity_ndcg_10"][
        "val"
    ]
    assert tied["popularity"] == pytest.approx(tied["chance"]) == pytest.approx(tied["inverse"])


@pytest.mark.parametrize(
    ("popularity", "inverse", "warned"),
    [
        (0.24, 0.21, None),
        (0.248, 0.22, "popularity more"),
        (0.22, 0.20, "its inverse more"),
        (0.3, 0.1, "popularity and"),
    ],
)
def test_a_family_in_which_popularity_tells_the_positive_is_warned_of(popularity, inverse, warned):
    found = {"popularity": popularity, "inverse": inverse, "chance": 0.227}
    lines = list(popularity_lines({"popularity_ndcg_10": {"val": found}}))
    assert lines[0] == f"val: NDCG@10 of popularity {popularity:.3f}, its inverse {inverse:.3f}, chance 0.227"
    assert len(lines) == (1 if warned is None else 2)
    if warned:
        assert lines[1].startswith(f"warning: val: {warned}")


def test_without_transfer_windows_their_prompts_have_no_mean(folder):
    pl.read_parquet(folder / "transfer.parquet").clear().write_parquet(folder / "transfer.parquet")
    report = data_report(folder, for_tests(folder), DATA, NONE_REJECTED, {"a": 50}, STEPS, None)
    assert report["mean_likes"]["transfer"] is None
    assert report["read"] == {"teacher": 1, "student": 1, "both": 1}
    assert report["val_and_test_share_a_time"] is None


def test_histogram_counts_every_user(report):
    assert report["histogram"]["users"] == [2, 1, 0, 1]  # lengths 2, 2, 3, 5
    assert report["histogram"]["edges"] == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_popularity_is_by_rank_without_items_that_have_none(report):
    assert report["popularity"] == {"rank": [1, 2, 3], "count": [2, 1, 1], "top_tenth": 0.5}


def test_the_curve_of_many_items_is_thinned(folder):
    items = {"count": range(5000), "total": range(5000), "cold": [False] * 5000}
    items |= {"text": [str(i) for i in range(5000)], "categories": [["x"]] * 5000}
    pl.DataFrame(items).write_parquet(folder / "items.parquet")
    curve = data_report(folder, for_tests(folder), DATA, NONE_REJECTED, {"a": 50}, STEPS, None)["popularity"]
    assert 100 < len(curve["rank"]) <= 200
    assert (curve["rank"][0], curve["rank"][-1]) == (1, 4999)
    assert [5000 - rank for rank in curve["rank"]] == curve["count"]


def test_users_and_items_that_are_all_alike(folder):
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    users.with_columns(length=pl.lit(5)).write_parquet(folder / "users.parquet")
    items.with_columns(count=pl.lit(1)).write_parquet(folder / "items.parquet")
    report = data_report(folder, for_tests(folder), DATA, NONE_REJECTED, {"a": 50}, STEPS, None)
    assert sum(report["histogram"]["users"]) == 4
    assert report["popularity"]["count"][0] == 1
