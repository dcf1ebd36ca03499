"""Fetches data and teacher: data.source -> data/raw, teacher.source -> data/teacher/base."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.config.params import Params
from fisher_ld.core.locks import work_root
from fisher_ld.fetch.downloads import fetch_data, fetch_teacher
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun) -> None:
    store, lock_file = work_root() / "work" / "downloads", work_root() / "sources.lock.json"
    raw, base = Path("data/raw"), Path("data/teacher/base")
    fetch_data(params.data.source, raw, store, lock_file)
    fetch_teacher(params.teacher.source, base, store, lock_file)
    for name, folder in (("raw", raw), ("teacher", base)):
        run.log_metrics({f"{name}_bytes": float(sum(path.stat().st_size for path in folder.iterdir()))})


if __name__ == "__main__":
    stage("download", main)
