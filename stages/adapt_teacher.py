"""The pretrained teacher -> a teacher adapted to the task."""

from __future__ import annotations

from pathlib import Path

from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.prompts import build_prompts, check_context
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.core.files import fingerprint, write_csv, write_json
from fisher_ld.evaluation.scoring import validator
from fisher_ld.fisher.coverage import cover
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import save
from fisher_ld.run.stage import stage
from fisher_ld.training.adapt import adapt

PROCESSED, BASE, ADAPTED = Path("data/processed"), Path("data/teacher/base"), Path("data/teacher/adapted")


def main(params, run):
    compute = setup(params.cluster, params.seed)
    settings = params.teacher.adapt
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    prompts = build_prompts(tokenizer, PROCESSED, params.teacher.prompt)
    scorer = Scorer.from_causal_lm(BASE, prompts.yes, prompts.no).on(compute)
    lists = read_lists(PROCESSED, "train")
    # what would stop a later stage stops here, before the longest one
    for part in (lists, *(read_lists(PROCESSED, name) for name in ("val", "test_popularity", "test_uniform"))):
        check_context(prompts.longest(part), scorer.context())
    cover(scorer.model)
    validate = validator(scorer, PROCESSED, prompts, settings.val_users, params.seed)

    key = {"params": params.model_dump(mode="json"), "compute": str(compute), "inputs": fingerprint([PROCESSED, BASE])}
    parts = [Checkpoint("adapt_teacher", key | {"part": part}) for part in ("items", "first", "above")]
    result = adapt(scorer, lists, prompts, settings, validate, parts, run.log_metrics, params.seed)
    save(scorer, tokenizer, params.teacher.prompt, ADAPTED)
    write_csv("metrics/plots/training/teacher.csv", result.table())
    best = {"steps": result.steps, "best_step": result.best_step, "validation_ndcg_10": result.best_score}
    write_json("metrics/adapt_teacher.json", best)
    for checkpoint in reversed(parts):  # where this is cut short, those below stay what the others went on from
        checkpoint.done()


if __name__ == "__main__":
    stage("adapt_teacher", main)
