"""data/raw -> data/processed, the data report and its plots."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.params import Params
from fisher_ld.preprocessing.preprocess import preprocess
from fisher_ld.preprocessing.report import plot_report, report_metrics
from fisher_ld.runtime import write_json
from fisher_ld.tracking import StageRun
from stages.common import stage

PROCESSED, METRICS = Path("data/processed"), Path("metrics")


def main(params: Params, run: StageRun) -> None:
    report = preprocess(Path("data/raw"), PROCESSED, params.data, params.seed)
    write_json(METRICS / "preprocess.json", report)
    for plot in plot_report(report, PROCESSED, METRICS / "plots" / "data"):
        run.log_artifact(plot)
    run.log_metrics(report_metrics(report))


if __name__ == "__main__":
    stage("preprocess", main)
