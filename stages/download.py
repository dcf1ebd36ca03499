"""Fetches a data set: data_sets.DATA.source -> data/DATA/raw."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.locks import work_root
from fisher_ld.fetch.data import fetch_data
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    store, lock_file = work_root() / "work" / "downloads", work_root() / "sources.lock.json"
    fetch_data(params.data_sets[data].source, DataPaths(data).raw, store, lock_file)


if __name__ == "__main__":
    stage(main)
