"""A shallow teacher -> its scores of the test lists."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.evaluation.testing import score_saved
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, shallow: str) -> None:
    compute = setup(params.cluster, params.teacher.precision, seed=0)  # scoring draws nothing
    score_saved(DataPaths(data), shallow, 0, compute)


if __name__ == "__main__":
    stage(main)
