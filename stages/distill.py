"""Trains one student of a method from the labels and the teacher's cache."""

from __future__ import annotations

from functools import partial
from typing import Any

from transformers import AutoTokenizer

from fisher_ld.batches.lists import Lists, read_taught
from fisher_ld.batches.prompts import read_template, saved_prompts
from fisher_ld.config import paths as names
from fisher_ld.config.params import Params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import Compute, setup
from fisher_ld.core.files import fingerprint, read_json, write_csv, write_json
from fisher_ld.distillation.cache import TeacherCache, signal_fingerprint
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.outcome import outcome
from fisher_ld.distillation.trainer import distill
from fisher_ld.evaluation.validation import same_order, validator
from fisher_ld.fisher.estimate import online_trace
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import initialised_anew, save
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from fisher_ld.training.loop import Training


def weighting(
    params: Params,
    paths: DataPaths,
    student: str,
    method: str,
    cache: TeacherCache,
    lists: Lists,
    compute: Compute,
    teacher: int,
) -> Weighting | None:
    """What `layer_weights` found for a method that matches layers."""
    layers, fisher, folder = METHODS[method].layers, params.fisher, paths.model("teacher", teacher)
    if layers is None:
        return None
    found, shape = read_json(paths.weights(method)), params.students[student]
    trace = None
    if layers.dynamic and fisher.update_from == "teacher":
        online = Scorer.load(folder).to(compute.device)
        prompt = partial(saved_prompts(folder, paths.processed).example, lists)
        trace = partial(online_trace, online, prompt, lists.labels(), found["kind"], params.cluster.checkpointing)
    pairs = layer_map(params.distill.layer_map, cache.layers, shape.layers, shape.init, found["mass"])
    return Weighting(pairs, found["weights"], found["depth_bias"], fisher.update_rate, fisher.update_interval, trace)


def main(params: Params, run: StageRun, data: str, student: str, method: str, seed: int, teacher: int) -> None:
    paths, row = DataPaths(data), METHODS[method]
    compute = setup(params.cluster, params.distill.precision, seed)
    model = names.student(student, method)
    start, folder, processed = paths.model(names.start(student)), paths.model("teacher", teacher), paths.processed
    lists = read_taught(processed)
    cache = TeacherCache.open(paths.cache, row.signals, signal_fingerprint(folder, processed, lists))
    tokenizer, prompts = AutoTokenizer.from_pretrained(start), saved_prompts(start, processed)

    scorer = Scorer.load(start).on(compute)
    if params.students[student].init == "random" and seed != params.seed:  # a seed is another start too
        scorer = initialised_anew(scorer, seed).on(compute)
    weights = weighting(params, paths, student, method, cache, lists, compute, teacher)

    inputs = fingerprint([processed, start, folder, paths.cache, paths.weights(method)])
    key: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "params": params.model_dump(mode="json"),
        "compute": str(compute),
    }
    checkpoint = Checkpoint("distill", key | {"inputs": inputs, "code": run.code})
    validate = validator(scorer, processed, prompts, params.distill.val_users, params.seed)
    training = Training(f"{model}, seed {seed}", seed, validate, checkpoint, run.log_metrics)
    before, order = {name: value.clone() for name, value in scorer.state_dict().items()}, validate.scores()
    fitted, trajectory = distill(scorer, cache, row, weights, lists, prompts, params.distill, training)

    save(scorer, tokenizer, read_template(start), paths.model(model, seed))
    told = paths.training(model, seed)
    write_csv(told / "curve.csv", fitted.table())
    write_csv(told / "weights.csv", trajectory)
    done = outcome(before, scorer.state_dict(), fitted) | {"same_order": same_order(order, validate.scores())}
    write_json(told / "fit.json", fitted.summary() | done)
    for step, layer, weight in trajectory.iter_rows():
        run.log_metrics({f"weight/layer_{layer:02d}": weight}, step=step)
    checkpoint.done()


if __name__ == "__main__":
    stage(main)
