"""Fitted rivals -> their scores of the test lists."""

from __future__ import annotations

from fisher_ld.batches.lists import FAMILIES, read_lists
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, rival
from fisher_ld.evaluation.baselines.catalogue import load_rivals
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    fitted = load_rivals(paths.rivals)
    for family in FAMILIES:
        lists = read_lists(paths.processed, f"test_{family}")
        for name in fitted:
            write_scores(paths.test(rival(name)) / f"{family}.parquet", range(len(lists)), fitted[name].score(lists))


if __name__ == "__main__":
    stage(main)
