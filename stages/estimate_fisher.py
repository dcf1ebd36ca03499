"""Gradient norms of the teacher's layers on sampled training examples, before and after adaptation."""

from __future__ import annotations

from functools import partial

import polars as pl

from fisher_ld.batches.lists import read_lists
from fisher_ld.config.params import Params
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.core.files import atomic_path, write_csv, write_json
from fisher_ld.fisher import profile
from fisher_ld.fisher.estimate import draw_examples, estimate
from fisher_ld.models.pretrained import load_pretrained
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun


def main(params: Params, run: StageRun, data: str, teacher: int) -> None:
    paths, fisher = DataPaths(data), params.fisher
    compute = setup(params.cluster, "fp32", params.seed)
    base, _, prompts = load_pretrained(BASE, paths.processed, params.teacher.answers)
    lists = read_lists(paths.processed, "train")
    labels, prompt = lists.labels(), partial(prompts.example, lists)
    examples = draw_examples(len(labels), fisher.samples, params.seed)
    states = {"adapted": Scorer.load(paths.model("teacher", teacher)), "base": base}
    tables = [
        estimate(
            scorer.on(compute), prompt, labels, examples, state, fisher.batch_size, fisher.tolerance,
            params.cluster.checkpointing,
        )
        for state, scorer in states.items()
    ]  # fmt: skip
    table = pl.concat(tables)
    with atomic_path(paths.traces) as temporary:
        table.write_parquet(temporary)
    write_json(paths.fisher, profile.summary(table, params.seed))
    write_csv(paths.profile, profile.plot_rows(table))


if __name__ == "__main__":
    stage(main)
