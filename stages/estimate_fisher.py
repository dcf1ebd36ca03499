"""Gradient norms of the teacher's layers, before and after adaptation, on examples of which it has read nothing and on
examples whose labels it learned."""

from __future__ import annotations

from functools import partial

import polars as pl

from fisher_ld.batches.lists import read_lists
from fisher_ld.config.params import Params
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.core.files import atomic_path, write_csv, write_json
from fisher_ld.fisher import profile
from fisher_ld.fisher.estimate import estimate
from fisher_ld.fisher.sample import draw_samples
from fisher_ld.models.pretrained import Pretrained
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun

FEWER = 4  # the state before adaptation is for comparison alone: no weight follows from it


def main(params: Params, run: StageRun, data: str, teacher: int) -> None:
    paths, fisher = DataPaths(data), params.fisher
    compute = setup(params.cluster, "fp32", params.seed)
    base = Pretrained.of(BASE, paths.processed, params.teacher.answers)
    labelled, transfer = (read_lists(paths.processed, name) for name in ("labelled", "transfer"))
    adapted = partial(Scorer.placed, paths.model("teacher", teacher))
    states = {
        "adapted": (adapted, fisher.samples),
        "base": (base.scorer, max(10, fisher.samples // FEWER)),
    }
    if fisher.unsampled:
        states["unsampled"] = adapted, fisher.unsampled
    tables = [
        estimate(scorer, base.prompts, sample, state, fisher.batch_size, compute.checkpointing)
        for state, (read, samples) in states.items()
        for scorer in [read(compute)]
        for sample in draw_samples(labelled, transfer, samples, params.seed)
    ]
    table = pl.concat(tables)
    with atomic_path(paths.traces) as temporary:
        table.write_parquet(temporary)
    write_json(paths.fisher, profile.summary(table, params.seed))
    write_csv(paths.profile, profile.plot_rows(table))


if __name__ == "__main__":
    stage(main)
