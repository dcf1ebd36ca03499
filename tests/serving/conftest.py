import numpy as np
import polars as pl
import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import write_json
from fisher_ld.evaluation.baselines.catalogue import settings_file
from fisher_ld.serving.recommender import load_recommender
from tests.evaluation.world import ITEMS, write_model, write_processed


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A data set as `preprocess` and `rivals` leave it, with a student m0, m1, ..; item 3 has a title of its own."""
    paths = DataPaths("films", tmp_path_factory.mktemp("served"))
    write_processed(paths.processed)
    items = pl.read_parquet(paths.processed / "items.parquet")
    titles = ["The Third" if i == 3 else f"m{i}" for i in range(ITEMS)]
    likes = pl.read_parquet(paths.processed / "sequences.parquet")["items"].explode()
    count = [int((likes == i).sum()) for i in range(ITEMS)]
    more = {"item_id": [f"id{i}" for i in range(ITEMS)], "title": titles, "count": count}
    items.with_columns(**{name: pl.Series(values) for name, values in more.items()}).write_parquet(
        paths.processed / "items.parquet"
    )
    write_json(settings_file(paths, "item-knn-all"), {"neighbours": 20, "decay": 0.9})
    write_json(settings_file(paths, "tf-idf"), {"longest": 1, "decay": 0.9})
    write_model(student(paths), 2)
    return paths


def student(paths):
    return paths.model("small/fisher-ld", 0)


@pytest.fixture(scope="session")
def recommender(data):
    return load_recommender(student(data))


@pytest.fixture(scope="session")
def liked(data):
    """User 0's likes but the last."""
    return [f"m{i}" for i in np.asarray(pl.read_parquet(data.processed / "sequences.parquet")["items"][0])[:-1]]
