"""data/DATA/raw -> data/DATA/processed and the data report."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import write_json
from fisher_ld.preprocessing.preprocess import preprocess
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    write_json(paths.data_report, preprocess(paths.raw, paths.processed, params.data_sets[data], params.seed))


if __name__ == "__main__":
    stage(main)
