"""The teacher before adaptation -> its scores of the test lists of a few users."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.evaluation.testing import score_tests, zero_shot_users
from fisher_ld.models.pretrained import Pretrained
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    compute = setup(params.cluster, params.teacher.precision, seed=0)  # scoring draws nothing
    found = Pretrained.of(BASE, paths.processed, params.teacher.answers)
    scorer, users = found.scorer(compute, frozen=True), zero_shot_users(paths.processed)
    score_tests(scorer, paths, found.prompts, paths.test("zero-shot"), users)


if __name__ == "__main__":
    stage(main)
