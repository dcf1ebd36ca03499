"""Teacher, the start of a shape's students and shallow teachers -> their speed, memory, energy and size."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, start
from fisher_ld.core.compute import setup
from fisher_ld.core.files import write_json
from fisher_ld.evaluation.efficiency import REFERENCE, measure, read_queries
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, student: str, teacher: int) -> None:
    paths = DataPaths(data)
    of_teacher = setup(params.cluster, params.teacher.precision, params.seed)
    of_student = setup(params.cluster, params.distill.precision, params.seed)
    models = {REFERENCE: (paths.model("teacher", teacher), of_teacher)}
    models[student] = (paths.model(start(student)), of_student)
    models |= {model: (paths.model(model), of_teacher) for model in params.run.shallow}
    found = measure(models, read_queries(paths.processed, params.efficiency.queries, params.seed), params.seed)
    write_json(paths.efficiency(student), found)
    run.log_metrics({f"{model}/{name}": value for model, row in found["ratios"].items() for name, value in row.items()})


if __name__ == "__main__":
    stage(main)
