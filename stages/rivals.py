"""Training positives -> fitted rivals, and their scores of the validation lists."""

from __future__ import annotations

from fisher_ld.batches.lists import read_lists
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, rival
from fisher_ld.evaluation.baselines.catalogue import fit_rivals
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    lists = read_lists(paths.processed, "val")
    for name, fitted in fit_rivals(paths.processed, params.rivals, paths.rivals).items():
        write_scores(paths.validation(rival(name)), range(len(lists)), fitted.score(lists))


if __name__ == "__main__":
    stage(main)
