"""The real data and the real teacher, fetched once."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from fisher_ld.fetch.data import fetch_data
from fisher_ld.fetch.teacher import fetch_teacher
from tests.given import given

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in Path(item.path).parents:
            item.add_marker(pytest.mark.slow)


class Fetched(NamedTuple):
    raw: Path
    base: Path


@pytest.fixture(scope="session")
def fetched(tmp_path_factory) -> Fetched:
    folder = tmp_path_factory.mktemp("fetched")
    params, places = given(), Fetched(folder / "raw", folder / "base")
    fetch_data(params.data_sets["movielens-100k"].source, places.raw, folder / "store", folder / "lock.json")
    fetch_teacher(params.teacher.source, places.base, folder / "store", folder / "lock.json")
    return places
