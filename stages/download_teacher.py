"""Fetches the teacher: teacher.source -> data/teacher/base."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import BASE
from fisher_ld.core.locks import work_root
from fisher_ld.fetch.teacher import fetch_teacher
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun) -> None:
    store, lock_file = work_root() / "work" / "downloads", work_root() / "sources.lock.json"
    fetch_teacher(params.teacher.source, BASE, store, lock_file)


if __name__ == "__main__":
    stage(main)
