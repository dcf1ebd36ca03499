"""Trains the students of one method, one a seed, from the teacher's cache and scores them:
`python -m stages.distill METHOD`."""

from __future__ import annotations

import copy
import functools
import sys
from pathlib import Path

import numpy as np
import polars as pl
import torch
from transformers import AutoTokenizer

from fisher_ld.batches.lists import read_lists
from fisher_ld.batches.packing import held_back
from fisher_ld.batches.prompts import build_prompts, saved_prompts
from fisher_ld.config.params import Prompt, Student
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.compute import setup
from fisher_ld.core.files import atomic_path, fingerprint, read_json, write_csv, write_json
from fisher_ld.distillation.cache import TeacherCache, signal_fingerprint
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.trainer import distill
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.scoring import score_test_lists, validator
from fisher_ld.fisher.estimate import estimate
from fisher_ld.fisher.profile import layer_traces
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import build_student, prompt_texts, save
from fisher_ld.run.stage import stage
from fisher_ld.training.head import fit_head

PROCESSED, ADAPTED = Path("data/processed"), Path("data/teacher/adapted")
CACHE, WEIGHTS = Path("data/cache"), Path("data/fisher/weights")
STATES = 1000  # examples whose states span the projection of a narrower student


def origin(method, params, cache):
    """What a student starts from: the teacher, the student's shape, and states of the teacher (n, d_T) for one that is
    narrower, else None."""
    if method.truncated:
        shape = Student(init="first", layers=params.student.layers, vocabulary=params.student.vocabulary)
        return Scorer.load(ADAPTED), shape, None
    if params.student.hidden_size is None:
        return Scorer.load(ADAPTED), params.student, None
    some = np.random.default_rng(params.seed).permutation(cache.examples)[:STATES]
    return Scorer.load(ADAPTED), params.student, cache.signals(some)[1].flatten(0, 1)


def online_trace(lists, kind, compute, checkpointing):
    """tr(F_l) (L_T,) of the adapted teacher on some examples, as `estimate_fisher` takes it."""
    prompt = functools.partial(saved_prompts(ADAPTED, PROCESSED).example, lists)
    scorer, labels = Scorer.load(ADAPTED).to(compute.device), lists.labels()

    def trace(examples):
        table = estimate(scorer, prompt, labels, examples, "online", len(examples), checkpointing=checkpointing)
        return torch.from_numpy(layer_traces(table, kind).trace)

    return trace


def main(params, run):
    name = sys.argv[1]
    method, folder = METHODS[name], Path("data/students") / name
    compute = setup(params.cluster, params.seed)
    lists = held_back(read_lists(PROCESSED, "train"), params.cache.windows, params.seed)
    cache = TeacherCache.open(CACHE, signal_fingerprint(ADAPTED, PROCESSED, lists))
    template = Prompt(**read_json(ADAPTED / "prompt.json"))
    weighting = read_json(WEIGHTS / f"{name}.json")
    teacher_trace = None
    if method.dynamic and params.fisher.update_from == "teacher":
        teacher_trace = online_trace(lists, weighting["kind"], compute, params.cluster.checkpointing)
    inputs = fingerprint([PROCESSED, ADAPTED, CACHE, WEIGHTS / f"{name}.json"])
    key = {"method": name, "params": params.model_dump(mode="json"), "compute": str(compute), "inputs": inputs}

    families = {name: read_lists(PROCESSED, name) for name in ("test_popularity", "test_uniform")}
    # the lists that the teacher was scored on
    numbers = {name: read_scores(CACHE / f"teacher_{name}.parquet", own).numbers for name, own in families.items()}

    windows = lists.windows()
    shuffled = [windows[i] for i in np.random.default_rng(params.seed).permutation(len(windows))]
    teacher, shape, states = origin(method, params, cache)
    texts = prompt_texts(pl.read_parquet(PROCESSED / "items.parquet")["text"].to_list(), template)

    @functools.cache
    def start(seed):
        whole = AutoTokenizer.from_pretrained(ADAPTED)
        student, tokenizer = build_student(teacher, shape, whole, texts, seed, states)
        prompts = build_prompts(tokenizer, PROCESSED, template)
        fit_head(student.on(compute), lists, shuffled, prompts)
        return student, tokenizer, prompts

    students, curves, trajectories, fits, checkpoints = [], [], [], [], []
    for seed, weights in enumerate(weighting["weights"]):
        fresh, tokenizer, prompts = start(seed if shape.init == "random" else 0)  # else the same for every seed
        student = copy.deepcopy(fresh)
        validate = validator(student, PROCESSED, prompts, params.distill.val_users, params.seed)
        checkpoint = Checkpoint("distill", key | {"student_seed": seed})

        def log(values, step, seed=seed):
            run.log_metrics({f"{metric}/seed_{seed}": value for metric, value in values.items()}, step)

        fit, trajectory = distill(
            student, cache, method, weights, lists, prompts, params.distill, params.fisher, validate,
            checkpoint, log, seed, f"{name}, seed {seed}", teacher_trace, weighting["mass"],
        )  # fmt: skip
        students.append((student, tokenizer, prompts))
        schema = {"step": pl.Int64, "layer": pl.Int64, "weight": pl.Float64}
        curves.append(fit.table().select(pl.lit(seed).alias("seed"), pl.all()))
        trajectories.append(pl.DataFrame(trajectory, schema=schema).select(pl.lit(seed).alias("seed"), pl.all()))
        fits.append({"steps": fit.steps, "best_step": fit.best_step, "validation_ndcg_10": fit.best_score})
        checkpoints.append(checkpoint)

    with atomic_path(folder) as temporary:
        for seed, (student, tokenizer, prompts) in enumerate(students):
            save(student, tokenizer, template, temporary / str(seed))
            files = {family: temporary / str(seed) / f"scores_{family}.parquet" for family in families}
            score_test_lists(student, families, numbers, prompts, "scoring the test lists", files)
    write_csv(f"metrics/plots/training/{name}.csv", pl.concat(curves))
    write_csv(f"metrics/plots/weights/{name}.csv", pl.concat(trajectories))
    for row in trajectories[0].iter_rows(named=True):
        run.log_metrics({f"weight/layer_{row['layer']:02d}": row["weight"]}, step=row["step"])
    means = {key: float(np.mean([fit[key] for fit in fits])) for key in fits[0]}
    write_json(f"metrics/distill/{name}.json", means | {"seeds": fits})
    for checkpoint in checkpoints:
        checkpoint.done()


if __name__ == "__main__":
    if sys.argv[1:] not in [[name] for name in METHODS]:
        sys.exit(f"python -m stages.distill METHOD: expected one of {', '.join(METHODS)}, got {sys.argv[1:]}")
    stage(f"distill@{sys.argv[1]}", main)
