"""Distilling from the cache, against the same steps with the teacher online.

    python -m benchmarks.distillation [--layers 2]    after `dvc repro cache_teacher layer_weights`

The same student, data order and loss (Fisher-LD) in both; the ways alternate in one process, and the ratio is of the
sums over all repeats.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import torch
from transformers import AutoTokenizer

from fisher_ld.batches.lists import Lists, read_lists, take
from fisher_ld.batches.packing import held_back
from fisher_ld.batches.prompts import Prompts, build_prompts, saved_prompts
from fisher_ld.config.params import Prompt, load_params
from fisher_ld.config.teacher_fit import check_shape
from fisher_ld.core.compute import setup
from fisher_ld.core.files import read_json
from fisher_ld.distillation.cache import TeacherCache
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.trainer import distill
from fisher_ld.models.scorer import Scorer, unit_rms
from fisher_ld.models.student import build_student, prompt_texts

PROCESSED, ADAPTED, CACHE = Path("data/processed"), Path("data/teacher/adapted"), Path("data/cache")
WEIGHTS = Path("data/fisher/weights/fisher-ld.json")


@dataclass
class OnlineTeacher:
    """TeacherSignals from a forward pass of the teacher over the same packed windows."""

    scorer: Scorer
    lists: Lists
    prompts: Prompts
    layers: int
    width: int

    @torch.no_grad()
    def signals(self, examples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        numbers = np.unique(np.searchsorted(self.lists.offsets, examples, side="right") - 1)
        windows = [numbers[window] for window in take(self.lists, numbers).windows()]
        batch = self.scorer.pack(self.lists, windows, self.prompts)
        z, states = self.scorer(batch, with_hidden_states=True)
        order = batch.examples.argsort()[torch.from_numpy(examples).argsort().argsort()]
        return z[order], unit_rms(states[order])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, help="of the student; default: student.layers of params.yaml")
    options = parser.parse_args()
    params = load_params("params.yaml")
    shape = params.student.model_copy(update={"layers": options.layers or params.student.layers})
    check_shape(params.model_copy(update={"student": shape}), ADAPTED)
    compute = setup(params.cluster, params.seed)
    steps = {"steps": options.steps, "eval_every": options.steps, "checkpoint_every": options.steps}
    settings = params.distill.model_copy(update=steps)

    template = Prompt(**read_json(ADAPTED / "prompt.json"))
    lists = held_back(read_lists(PROCESSED, "train"), params.cache.windows, params.seed)
    scorer, tokenizer = Scorer.load(ADAPTED).on(compute), AutoTokenizer.from_pretrained(ADAPTED)
    prompts = saved_prompts(ADAPTED, PROCESSED)
    cache = TeacherCache.open(CACHE)
    online_scorer = Scorer.load(ADAPTED).on(compute)
    if compute.bf16:  # cast once, as `Scorer.inference` does, which would not let the student train
        for module in online_scorer.body.modules():
            if isinstance(module, torch.nn.Linear):
                module.to(torch.bfloat16)
    online = OnlineTeacher(online_scorer, lists, prompts, cache.layers, cache.width)
    texts = prompt_texts(pl.read_parquet(PROCESSED / "items.parquet")["text"].to_list(), template)
    weights = read_json(WEIGHTS)["weights"][0]

    checkpoint: Any = SimpleNamespace(load=lambda: None, save=lambda step, state: None)

    def seconds(teacher) -> float:
        student, own = build_student(scorer, shape, tokenizer, texts, params.seed, None)
        student_prompts = build_prompts(own, PROCESSED, template)
        began = time.perf_counter()
        distill(
            student.on(compute), teacher, METHODS["fisher-ld"], weights, lists, student_prompts, settings,
            params.fisher, lambda: 0.0, checkpoint, lambda values, step: None, params.seed, "distilling",
        )  # fmt: skip
        return time.perf_counter() - began

    spent = {"cached": 0.0, "online": 0.0}
    for repeat in range(options.repeats + 1):
        for name, teacher in (("cached", cache), ("online", online)):
            passed = seconds(teacher)
            if repeat:  # the first round warms up
                spent[name] += passed
    ratio = spent["online"] / spent["cached"]
    print(f"student of {shape.layers} layers, {options.repeats} x {options.steps} steps:", end=" ")
    print(f"from the cache {ratio:.1f} times as fast as online (goal: 4)")


if __name__ == "__main__":
    main()
