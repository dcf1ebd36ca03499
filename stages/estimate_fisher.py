"""Fisher norms of the teacher's layers on sampled training examples, before and after adaptation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import polars as pl
from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.prompts import build_prompts
from fisher_ld.core.compute import setup
from fisher_ld.core.files import atomic_path, write_csv, write_json
from fisher_ld.fisher import profile
from fisher_ld.fisher.estimate import draw_examples, estimate
from fisher_ld.models.scorer import Scorer
from fisher_ld.run.stage import stage

PROCESSED, BASE, ADAPTED = Path("data/processed"), Path("data/teacher/base"), Path("data/teacher/adapted")


def main(params, run):
    exact = params.cluster.model_copy(update={"precision": "fp32"})
    compute = setup(exact, params.seed)
    prompts = build_prompts(AutoTokenizer.from_pretrained(ADAPTED), PROCESSED, params.teacher.prompt)
    lists = read_lists(PROCESSED, "train")
    labels = lists.labels()
    examples = draw_examples(len(labels), params.fisher.samples, params.seed)
    prompt = partial(prompts.example, lists)
    tables = []
    for state in ("adapted", "base"):
        scorer = Scorer.load(ADAPTED) if state == "adapted" else Scorer.from_causal_lm(BASE, prompts.yes, prompts.no)
        fisher, checkpointing = params.fisher, params.cluster.checkpointing
        rows = estimate(
            scorer.on(compute), prompt, labels, examples, state, fisher.batch_size, fisher.tolerance, checkpointing
        )
        tables.append(rows)
    table = pl.concat(tables)

    with atomic_path("data/fisher/traces.parquet") as temporary:
        table.write_parquet(temporary)
    result = profile.summary(table, params.seed)
    write_json("metrics/fisher.json", result)
    write_csv("metrics/plots/fisher.csv", profile.plot_rows(table))
    profile.plot(table, Path("metrics/plots/fisher.png"))
    for state, kinds in result.items():
        for kind in profile.KINDS:
            run.log_metrics({f"{state}/{kind}/{k}": v for k, v in kinds[kind].items() if isinstance(v, float)})
            for part, row in kinds[kind]["outside"].items():
                run.log_metrics({f"{state}/{kind}/{part}_trace": row["trace"]})
            for row in kinds[kind]["layers"]:
                run.log_metrics({f"{state}/{kind}/share": row["share"]}, step=row["layer"])
    run.log_artifact("metrics/plots/fisher.png")


if __name__ == "__main__":
    stage("estimate_fisher", main)
