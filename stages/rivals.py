"""Likes and texts -> rivals with the settings that do best on the validation lists, their scores of these, and the test
lists of a first stage."""

from __future__ import annotations

import numpy as np

from fisher_ld.batches.lists import MAIN, read_lists, read_tests, take
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths, cell, rival
from fisher_ld.core.files import write_json
from fisher_ld.evaluation.baselines.catalogue import fit_chosen, rivals_of, settings_file
from fisher_ld.evaluation.baselines.tuning import tune
from fisher_ld.evaluation.scores import write_scores
from fisher_ld.evaluation.two_stage import (
    choose_first_stage,
    pools,
    read_cold,
    read_touched,
    two_stage,
    write_lists,
)
from fisher_ld.preprocessing.splits import with_long_lists
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str) -> None:
    paths = DataPaths(data)
    lists, tuning = read_lists(paths.processed, "val"), {}
    for name, row in rivals_of(params.rivals).items():
        best = tune(row.kind, row.read(paths), lists, params.rivals.trials)
        write_json(settings_file(paths, name), best.settings)
        write_scores(paths.validation(rival(name)), range(len(lists)), best.scores)
        tuning[name] = best.record()
    write_json(cell("rivals", data) / "tuning.json", tuning)
    name = None
    if "two-stage" in params.data_sets[data].families:
        name = _write_two_stage(paths, {name: record["ndcg_10"] for name, record in tuning.items()}, params.seed)
    write_json(paths.first_stage / "rival.json", name)


def _write_two_stage(paths: DataPaths, quality: dict[str, float], seed: int) -> str:
    """Returns whose best they are."""
    tests, cold = read_tests(paths), read_cold(paths.processed)
    few = with_long_lists(np.arange(len(tests[MAIN])), seed)
    main, whole = take(tests[MAIN], few), pools(tests, cold, read_touched(paths.processed))
    name = choose_first_stage(quality, bool(cold.any()))
    made = two_stage(fit_chosen(paths, name), main, [whole[number] for number in few], seed)
    write_lists(paths.test_lists("two-stage"), made.lists)
    missing = {"lists": len(main), "missing": int(made.missing.sum()), "share_missing": float(made.missing.mean())}
    write_json(cell("rivals", paths.name) / "two_stage.json", {"first_stage": name, **missing})
    print(f"two-stage lists by {name}: the true item was put into {missing['share_missing']:.1%} of {len(main)}")
    return name


if __name__ == "__main__":
    stage(main)
