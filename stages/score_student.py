"""A student -> its scores of the test lists, and of the validation lists."""

from __future__ import annotations

from fisher_ld.config import paths
from fisher_ld.config.params import Params
from fisher_ld.core.compute import setup
from fisher_ld.evaluation.testing import load_saved, score_tests
from fisher_ld.evaluation.validation import score_validation
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, student: str, method: str, seed: int) -> None:
    compute = setup(params.cluster, params.distill.precision, seed=0)  # scoring draws nothing
    files, model = paths.DataPaths(data), paths.student(student, method)
    scorer, prompts = load_saved(files, model, seed, compute)
    score_tests(scorer, files, prompts, files.test(model, seed))
    score_validation(scorer, files.processed, prompts, files.validation(model, seed))


if __name__ == "__main__":
    stage(main)
