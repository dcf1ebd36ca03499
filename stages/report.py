"""The metrics of all stages -> metrics/report.md and .html; completes the experiment's run in MLflow."""

from __future__ import annotations

from pathlib import Path

from fisher_ld.report.inputs import final_metrics, read_results
from fisher_ld.report.report import write_report
from fisher_ld.run.stage import stage

METRICS = Path("metrics")


def main(params, run):
    results = read_results(METRICS)
    write_report(results, params.distill.list_weight, METRICS)
    run_files = [path for path in (METRICS / "runs").glob("*.json") if path.stem != "report"]
    run_files += [METRICS / "runs" / "distill" / f"{student}.json" for student in results.distill]
    artifacts = [METRICS / "report.html", METRICS / "report.md", METRICS / "plots"]
    run.complete_parent(sorted(run_files), final_metrics(results), artifacts)


if __name__ == "__main__":
    stage("report", main)
