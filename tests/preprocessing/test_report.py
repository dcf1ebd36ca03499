import polars as pl
import pytest

from fisher_ld.preprocessing.report import data_report

STEPS = [
    {"step": "read", "users": 10, "items": 20, "interactions": 100},
    {"step": "k-core", "users": 5, "items": 16, "interactions": 40},
    {"step": "max_users", "users": 4, "items": 4, "interactions": 12},
]
NONE_REJECTED = pl.DataFrame(schema=dict.fromkeys(("file", "row", "reason", "raw"), pl.String))


@pytest.fixture
def folder(tmp_path):
    users = {"length": [2, 2, 3, 5], "train_positives": [0, 0, 1, 3], "fold": [0, 1, 2, 0]}
    pl.DataFrame(users).write_parquet(tmp_path / "users.parquet")
    items = {"count": [0, 1, 1, 2], "text": ["A", "A", "B", "C"], "categories": [["x"], [], ["x"], ["y"]]}
    pl.DataFrame(items).write_parquet(tmp_path / "items.parquet")
    for name, lists in (("train", 3), ("val", 2), ("test_popularity", 1), ("test_uniform", 1)):
        pl.DataFrame({"candidates": [[0, 1, 2]] * lists}).write_parquet(tmp_path / f"{name}.parquet")
    return tmp_path


@pytest.fixture
def report(folder):
    rejected = pl.DataFrame({"file": ["a", "a", "b"], "row": [1, 2, 3], "reason": ["x", "x", "y"], "raw": [""] * 3})
    return data_report(folder, rejected, {"a": 50, "b": 10}, STEPS)


def test_numbers(report):
    assert report["lost"] == pytest.approx({"users": 0.5, "items": 0.2, "interactions": 0.6})
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
    assert report["lists"] == {"train": 3, "val": 2, "test_popularity": 1, "test_uniform": 1}
    assert report["examples"] == {"train": 9, "val": 6, "test_popularity": 3, "test_uniform": 3}
    assert report["folds"] == [2, 1, 1]


def test_histogram_counts_every_user(report):
    assert report["histogram"]["users"] == [2, 1, 0, 1]  # lengths 2, 2, 3, 5
    assert report["histogram"]["edges"] == [1.5, 2.5, 3.5, 4.5, 5.5]


def test_popularity_is_by_rank_without_items_that_have_none(report):
    assert report["popularity"] == {"rank": [1, 2, 3], "count": [2, 1, 1], "top_tenth": 0.5}


def test_the_curve_of_many_items_is_thinned(folder):
    items = pl.DataFrame({"count": range(5000), "text": [str(i) for i in range(5000)], "categories": [["x"]] * 5000})
    items.write_parquet(folder / "items.parquet")
    curve = data_report(folder, NONE_REJECTED, {"a": 50}, STEPS)["popularity"]
    assert 100 < len(curve["rank"]) <= 200
    assert (curve["rank"][0], curve["rank"][-1]) == (1, 4999)
    assert [5000 - rank for rank in curve["rank"]] == curve["count"]


def test_users_and_items_that_are_all_alike(folder):
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    users.with_columns(length=pl.lit(5)).write_parquet(folder / "users.parquet")
    items.with_columns(count=pl.lit(1)).write_parquet(folder / "items.parquet")
    report = data_report(folder, NONE_REJECTED, {"a": 50}, STEPS)
    assert sum(report["histogram"]["users"]) == 4
    assert report["popularity"]["count"][0] == 1
