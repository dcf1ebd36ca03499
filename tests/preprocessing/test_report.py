import polars as pl
import pytest
from matplotlib.image import imread

from fisher_ld.preprocessing.report import data_report, plot_report, report_metrics

STEPS = [
    {"step": "read", "users": 10, "items": 20, "interactions": 100},
    {"step": "k-core", "users": 5, "items": 16, "interactions": 40},
    {"step": "max_users", "users": 4, "items": 4, "interactions": 12},
]


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


def test_metrics_are_single_numbers(report):
    metrics = report_metrics(report)
    assert metrics["users"] == 4
    assert metrics["lost/users"] == 0.5
    assert metrics["lists/train"] == 3
    assert all(isinstance(value, float) for value in metrics.values())


def test_plots(report, folder):
    paths = plot_report(report, folder, folder / "plots")
    assert [path.name for path in paths] == ["history_lengths.png", "item_popularity.png", "filters.png"]
    for path in paths:
        image = imread(path)
        assert image.shape[0] > 100
        assert image.std() > 0.05


def test_plots_of_users_and_items_that_are_all_alike(folder, report):
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    users.with_columns(length=pl.lit(5)).write_parquet(folder / "users.parquet")
    items.with_columns(count=pl.lit(1)).write_parquet(folder / "items.parquet")
    assert len(plot_report(report, folder, folder / "plots")) == 3
