"""Rivals with their chosen settings -> their scores of the test lists."""

from __future__ import annotations

from fisher_ld.batches.lists import read_tests
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, rival
from fisher_ld.evaluation.baselines.catalogue import fit_chosen, rivals_of
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    tests = read_tests(paths)
    for name in rivals_of(params.rivals):
        fitted = fit_chosen(paths, name)
        for family, lists in tests.items():
            write_scores(paths.test(rival(name)) / f"{family}.parquet", range(len(lists)), fitted.score(lists))


if __name__ == "__main__":
    stage(main)
