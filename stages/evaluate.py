"""The scores of all models -> the per-user table and what it says; scores as probabilities; examples of rankings."""

from __future__ import annotations

from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import atomic_path, write_json
from fisher_ld.evaluation.calibration import calibration
from fisher_ld.evaluation.comparisons import Known, evaluate, logged
from fisher_ld.evaluation.examples import examples
from fisher_ld.evaluation.per_user import per_user
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    table = per_user(paths, params.run, params.rivals)
    found = evaluate(table, Known.read(paths, params.run), params.evaluate, params.seed)
    probabilities, shown = calibration(paths, params.run), examples(paths, params.run, params.seed)
    with atomic_path(paths.per_user) as temporary:
        table.write_parquet(temporary)
    for path, content in ((paths.evaluate, found), (paths.calibration, probabilities), (paths.examples, shown)):
        write_json(path, content)
    run.log_metrics(logged(found))


if __name__ == "__main__":
    stage(main)
