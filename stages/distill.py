"""Trains one student of a method from the labels and the teacher's cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_taught
from fisher_ld.batches.prompts import read_template, saved_prompts
from fisher_ld.config import paths as names
from fisher_ld.config.params import Params, Student
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.core.files import fingerprint, read_json, write_csv, write_json
from fisher_ld.distillation.cache import TeacherCache, signal_fingerprint
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.outcome import outcome
from fisher_ld.distillation.terms import BASIC
from fisher_ld.distillation.trainer import distill
from fisher_ld.evaluation.validation import same_order, validator
from fisher_ld.fisher.estimate import online_trace
from fisher_ld.fisher.profile import Kind
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import initialised_anew, save
from fisher_ld.run.stage import stage
from fisher_ld.run.tracking import StageRun
from fisher_ld.training.loop import Fit, Training

Trace = Callable[[np.ndarray], torch.Tensor]  # examples -> tr(F_l) (L_T,)


class Trained(NamedTuple):
    scorer: Scorer
    tokenizer: Any
    fit: Fit
    trajectory: pl.DataFrame  # of the layer weights
    outcome: dict[str, float | None]
    checkpoint: Checkpoint  # to be ended when what was trained is on disk


def weighting(
    params: Params, paths: DataPaths, shape: Student, method: str, layers: int, online: Callable[[Kind], Trace]
) -> Weighting:
    """What `layer_weights` found for a method that learns from the teacher's `layers`, uniform weights where it has
    none of its own. `online`: kind of Fisher -> the trace of a teacher that is there in training, if Eq. 9 asks."""
    found, fisher, term = read_json(paths.weights(method)), params.fisher, METHODS[method].layers
    pairs = layer_map(params.distill.layer_map, layers, shape.layers, shape.init, found["mass"])
    weights, bias = found["weights"] or [1 / layers] * layers, found["depth_bias"] or [1.0] * layers
    trace = online(found["kind"]) if term and term.dynamic and fisher.update_from == "teacher" else None
    return Weighting(pairs, weights, bias, fisher.update_rate, fisher.update_interval, trace)


def train(
    params: Params,
    run: StageRun,
    paths: DataPaths,
    student: str,
    method: str,
    seed: int,
    teacher: int,
    strength: float,
    *,
    trial: bool = False,
) -> Trained:
    """A student of a method, whose knowledge of the teacher weighs `strength` times as much as params say, which the
    names of the metrics of a `trial` tell."""
    row, shape = METHODS[method], params.students[student]
    compute = setup(params.cluster, params.distill.precision, seed)
    model = names.student(student, method)
    start, folder, processed = paths.model(names.start(student)), paths.model("teacher", teacher), paths.processed
    lists = read_taught(processed)
    marks = signal_fingerprint(folder, processed, lists)
    cache = TeacherCache.open(paths.cache, row.signals & BASIC, marks)
    tokenizer, prompts = AutoTokenizer.from_pretrained(start), saved_prompts(start, processed)
    if row.own_signals:
        cache = cache.joined(TeacherCache.open(paths.signals(method), row.own_signals, marks))
        prompts.check_alike(saved_prompts(folder, processed), method)

    def online(kind: Kind) -> Trace:
        known, prompt = Scorer.load(folder).to(compute.device), saved_prompts(folder, processed).example
        return partial(online_trace, known, partial(prompt, lists), lists.labels(), kind, compute.checkpointing)

    scorer = Scorer.load(start).on(compute)
    if shape.init == "random" and seed != params.seed:  # a seed is another start too
        scorer = initialised_anew(scorer, seed).on(compute)
    weights = None
    if row.signals - {"logits"}:
        weights = weighting(params, paths, shape, method, cache.layers, online)

    inputs = fingerprint([processed, start, folder, paths.cache, paths.signals(method), paths.weights(method)])
    key: dict[str, Any] = {
        "model": model,
        "seed": seed,
        "strength": strength,
        "params": params.model_dump(mode="json"),
        "compute": str(compute),
    }
    checkpoint = Checkpoint("distill", key | {"inputs": inputs, "code": run.code})
    validate = validator(scorer, processed, prompts, params.distill.val_users, params.seed)

    def log(values: Mapping[str, Any], step: int | None = None) -> None:
        run.log_metrics({f"strength_{strength:g}": values} if trial else values, step)

    training = Training(f"{model}, seed {seed}", seed, validate, checkpoint, log)
    weighed = {row.weighed: strength * getattr(params.distill, row.weighed)} if row.weighed else {}
    settings = params.distill.model_copy(update=weighed)
    before, order = {name: value.clone() for name, value in scorer.state_dict().items()}, validate.scores()
    fit, trajectory = distill(scorer, cache, row, weights, lists, prompts, settings, training, compute.pieces)
    done = outcome(before, scorer.state_dict(), fit) | {"same_order": same_order(order, validate.scores())}
    return Trained(scorer, tokenizer, fit, trajectory, done, checkpoint)


def main(params: Params, run: StageRun, data: str, student: str, method: str, seed: int, teacher: int) -> None:
    paths, model = DataPaths(data), names.student(student, method)
    chosen = read_json(paths.strength(student, method))
    done = train(params, run, paths, student, method, seed, teacher, chosen["strength"])
    save(done.scorer, done.tokenizer, read_template(paths.model(names.start(student))), paths.model(model, seed))
    told = paths.training(model, seed)
    write_csv(told / "curve.csv", done.fit.table())
    write_csv(told / "weights.csv", done.trajectory)
    write_json(told / "fit.json", {**done.fit.summary(), **done.outcome, **chosen})
    for step, layer, value in done.trajectory.iter_rows():
        run.log_metrics({f"weight/layer_{layer:02d}": value}, step=step)
    done.checkpoint.done()


if __name__ == "__main__":
    stage(main)
