"""The pretrained teacher -> a teacher adapted to the task, and its scores of the validation lists."""

from __future__ import annotations

from contextlib import nullcontext

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.prompts import check_context, read_template
from fisher_ld.config.params import Params
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.core.files import fingerprint, write_csv, write_json
from fisher_ld.evaluation.validation import score_validation, validator
from fisher_ld.fisher.coverage import cover
from fisher_ld.models.pretrained import Pretrained
from fisher_ld.models.student import layers_taken, save
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from fisher_ld.training.adapt import LAYER_DROP, adapt
from fisher_ld.training.head import fit_head, shuffled_windows
from fisher_ld.training.loop import Training
from fisher_ld.training.memory import check_memory, needed


def adapt_model(
    params: Params,
    run: StageRun,
    paths: DataPaths,
    model: str,
    seed: int,
    steps: int,
    first: int | None = None,
    spaced: int | None = None,
) -> None:
    """Adapts the teacher on the labelled windows, in `steps` at most: as a whole, or its `first` layers alone, with a
    head fitted to them, or with layers left out at random, of which `spaced` are kept in the end."""
    compute = setup(params.cluster, params.teacher.precision, seed)
    settings, processed = params.teacher.adapt, paths.processed
    base, lists = Pretrained.of(BASE, processed, params.teacher.answers), read_lists(processed, "labelled")
    prompts = base.prompts
    check_memory(needed(base.config(first), lists, prompts, settings, compute), compute)
    scorer = base.scorer(compute, frozen=settings.method == "lora")
    cover(scorer.model)
    # what would stop a later stage stops here, before the longest one; the test lists are not looked at
    for part in ("labelled", "transfer", "val"):
        check_context(prompts.longest(read_lists(processed, part)), scorer.context())
    if first is not None:
        fit_head(scorer.keep(range(first)), lists, shuffled_windows(lists, seed), prompts)

    key = {"model": model, "seed": seed, "params": params.model_dump(mode="json"), "compute": str(compute)}
    key |= {"inputs": fingerprint([processed, BASE]), "code": run.code}
    checkpoint = Checkpoint("adapt", key)
    whole = validator(scorer, processed, prompts, settings.val_users, params.seed)
    kept = layers_taken("spaced", len(scorer.layers), spaced) if spaced else None

    def validate() -> float:
        with scorer.only(kept) if kept else nullcontext():
            return whole()

    training = Training(model, seed, validate, checkpoint, run.log_metrics)
    drop = LAYER_DROP if spaced else 0.0
    fitted = adapt(scorer, lists, prompts, settings, steps, training, drop, compute.checkpointing, compute.pieces)
    if kept:
        scorer.keep(kept)

    save(scorer, base.tokenizer, read_template(processed), paths.model(model, seed))
    score_validation(scorer, processed, prompts, paths.validation(model, seed))
    write_csv(paths.training(model, seed) / "curve.csv", fitted.table())
    write_json(paths.training(model, seed) / "fit.json", fitted.summary())
    checkpoint.done()


def main(params: Params, run: StageRun, data: str, seed: int) -> None:
    adapt_model(params, run, DataPaths(data), "teacher", seed, params.teacher.adapt.steps)


if __name__ == "__main__":
    stage(main)
