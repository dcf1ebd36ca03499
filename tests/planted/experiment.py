"""Students that learn from the toy teacher, by the code that traces, trains, scores and judges the real ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification

from fisher_ld.batches.lists import MAIN, concat
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS, Method
from fisher_ld.distillation.outcome import outcome
from fisher_ld.distillation.trainer import distill
from fisher_ld.distillation.weights import STRATEGIES, depth_bias
from fisher_ld.evaluation.comparisons import Known, evaluate
from fisher_ld.evaluation.metrics.diversity import category_matrix
from fisher_ld.evaluation.per_user import CHANCE, chance_metrics, user_metrics
from fisher_ld.evaluation.scores import Scores
from fisher_ld.evaluation.validation import Validator, same_order
from fisher_ld.fisher.profile import Kind, LayerTraces, layer_traces
from fisher_ld.fisher.sample import draw_samples
from fisher_ld.models.scorer import Scorer, score_lists
from fisher_ld.training.loop import Training
from tests.given import given
from tests.planted.world import ITEMS, PROMPTS, Form, Teacher, World

SEEDS, STEPS = 5, 80
# All that a training and its weights depend on: a change of params.yaml is no change of this experiment.
PARAMS = given(
    {
        "fisher": {
            "kind": "model", "samples": 128, "beta": 0.3, "delta": 1.0, "update_rate": 0.05, "update_interval": 10
        },
        "distill": {
            "alpha": 0.3, "list_weight": 0.5, "output_weight": 0.4, "layer_weight": 1.0, "l2": 0.05,
            "explicit_l2": False, "temperature": 4.0, "layer_map": "all", "learning_rate": 6.0e-3, "steps": STEPS,
            "batch_users": 2, "transfer_users": 8, "warmup": 0.1, "eval_every": STEPS, "checkpoint_every": STEPS,
        },
        "evaluate": {"margin": 0.01, "permutations": 500},
    }
)  # fmt: skip
WORLD = World(labelled=30, transfer=250, validation=50, test=250)
LEARNED = concat(WORLD.labelled, WORLD.transfer)


class Trained(NamedTuple):
    scores: list[np.ndarray]  # of the test lists
    fit: dict[str, Any]  # as fit.json has it


def new_student(seed: int) -> Scorer:
    """Of random start, and too narrow for all that the teacher's layers carry."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=2 + ITEMS, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, max_position_embeddings=64, num_labels=2, pad_token_id=0,
    )  # fmt: skip
    student = Scorer(LlamaForSequenceClassification(config).eval())
    student.batch_users = 64
    return student


@cache
def teacher(form: Form) -> Teacher:
    return Teacher(WORLD, LEARNED, form)


@cache
def traces(form: Form, kind: Kind) -> LayerTraces:
    samples = draw_samples(WORLD.labelled, WORLD.transfer, PARAMS.fisher.samples, PARAMS.seed)
    tables = [Teacher(WORLD, sample.lists, form).gradient_norms(sample) for sample in samples]
    return layer_traces(pl.concat(tables), kind)


def weighting(form: Form, method: Method, student_layers: int) -> Weighting:
    assert method.layers
    fisher, layers = PARAMS.fisher, Teacher.layers
    weights = STRATEGIES[method.layers.strategy](traces(form, fisher.kind), fisher.beta, fisher.delta).tolist()
    bias = depth_bias(layers, fisher.beta, fisher.delta).tolist()
    pairs = layer_map(PARAMS.distill.layer_map, layers, student_layers, "random")
    return Weighting(pairs, weights, bias, fisher.update_rate, fisher.update_interval)


@cache
def trained(form: Form, method: Method, seed: int) -> Trained:
    """By a row of the table, whatever its name there: rows that are exchanged need no other training."""
    student = new_student(seed)
    start = {name: value.clone() for name, value in student.state_dict().items()}
    validate = Validator(student, WORLD.validation, PROMPTS)
    first = validate.scores()
    weights = weighting(form, method, len(student.layers))
    with TemporaryDirectory() as folder:
        training = Training(method.label, seed, validate, Checkpoint("distill", {}, folder), lambda *logged: None)
        fit, _ = distill(student, teacher(form), method, weights, LEARNED, PROMPTS, PARAMS.distill, training)
    alike = {"same_order": same_order(first, validate.scores())}
    told = fit.summary() | outcome(start, student.state_dict(), fit) | alike
    return Trained(score_lists(student, WORLD.test, PROMPTS), told)


def comparisons(form: Form, methods: Sequence[str]) -> list[dict[str, Any]]:
    """What `evaluate.json` says of students of the size `toy` that were trained by these rows of the table."""
    categories, lists = category_matrix([[]] * ITEMS), WORLD.test
    runs = {f"toy/{name}": [trained(form, METHODS[name], seed) for seed in range(SEEDS)] for name in methods}
    answers = Teacher(WORLD, lists, form).known["logits"].numpy()
    scores = {model: [run.scores for run in of_model] for model, of_model in runs.items()}
    scores["teacher"] = [np.split(answers, lists.offsets[1:-1])]
    frames = {CHANCE: [chance_metrics(lists, categories)]}
    for model, of_model in scores.items():
        frames[model] = [user_metrics(lists, Scores(np.arange(len(lists)), one), categories) for one in of_model]
    table = pl.concat(
        frame.with_columns(model=pl.lit(model), family=pl.lit(MAIN), seed=pl.lit(seed))
        for model, of_model in frames.items()
        for seed, frame in enumerate(of_model)
    )
    gate = {"truncated": {"depth": 1}, "best_rival": "rivals/none"}  # models that are not here
    fits = {model: [run.fit for run in of_model] for model, of_model in runs.items()}
    validation = {model: [fit["validation_ndcg_10"] for fit in of_model] for model, of_model in fits.items()}
    known = Known({"toy": gate}, fits, validation)
    return evaluate(table, known, PARAMS.evaluate, PARAMS.seed)["comparisons"][MAIN]
