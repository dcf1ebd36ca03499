"""data/raw -> data/processed, the data report and its plots."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.config.params import Params
from fisher_ld.core.files import write_json
from fisher_ld.preprocessing.preprocess import preprocess
from fisher_ld.preprocessing.report import plot_report, report_metrics
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun

PROCESSED, METRICS = Path("data/processed"), Path("metrics")


def main(params: Params, run: StageRun) -> None:
    report = preprocess(Path("data/raw"), PROCESSED, params.data, params.seed)
    write_json(METRICS / "preprocess.json", report)
    for plot in plot_report(report, PROCESSED, METRICS / "plots" / "data"):
        run.log_artifact(plot)
    run.log_metrics(report_metrics(report))


if __name__ == "__main__":
    stage("preprocess", main)
