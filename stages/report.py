"""What all stages measured -> metrics/report.md and .html, the tables of `dvc plots`, the few numbers of summary.json;
completes the run's parent in MLflow, and registers the student that is best on validation lists."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import METRICS, PLOTS, SUMMARY
from fisher_ld.core.files import write_csv, write_json
from fisher_ld.experiments.results import Results
from fisher_ld.report.blocks import write_page
from fisher_ld.report.html import html
from fisher_ld.report.markdown import markdown
from fisher_ld.report.page import TITLE, document
from fisher_ld.report.summary import best_student, plots, summary
from fisher_ld.run.registry import register
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from fisher_ld.serving.predictor import history_length


def main(params: Params, run: StageRun) -> None:
    results = Results(params.run)
    blocks = document(results, params)
    write_page(METRICS / "report.md", markdown(TITLE, blocks))
    write_page(METRICS / "report.html", html(TITLE, blocks))
    for name, frame in plots(results).items():
        write_csv(PLOTS / f"{name}.csv", frame)
    numbers = summary(results)
    write_json(SUMMARY, numbers)
    for part in results.parts.values():
        model, seed, tags = best_student(part)
        folder = part.paths.model(model, seed)
        register(run, folder, f"{params.tracking.experiment}-{part.name}", tags, history_length(folder))
    run.complete_parent(numbers, [METRICS / "report.html", METRICS / "report.md", PLOTS])


if __name__ == "__main__":
    stage(main)
