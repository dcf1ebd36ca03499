"""Validation scores -> whether the teacher is worth distilling into students of a shape; stops the pipeline if not."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import write_json
from fisher_ld.evaluation.gate import gate
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, student: str, teacher: int) -> None:
    paths, shape = DataPaths(data), params.students[student]
    found = gate(paths, shape, params.rivals, teacher, params.gate.override, params.seed)
    write_json(paths.gate(student), found)


if __name__ == "__main__":
    stage(main)
