"""Distilling from the cache, against the same steps with the teacher online.

    python -m benchmarks.distillation [--data movielens-100k] [--student small] [--layers 2]

It needs what `dvc repro cache_teacher layer_weights` writes.

The same student, data order and loss (Fisher-LD) in both; the ways alternate in one process, and the ratio is of the
sums over all repeats.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer

from fisher_ld.batches.lists import Lists, read_taught, read_texts, take
from fisher_ld.batches.prompts import Prompts, build_prompts, read_template, saved_prompts
from fisher_ld.config.params import load_params
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.compute import setup
from fisher_ld.core.files import read_json
from fisher_ld.distillation.cache import TeacherCache
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.signals import SIGNALS, StateStatistics, asked
from fisher_ld.distillation.trainer import distill
from fisher_ld.models.projection import SAMPLE
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import build_student, prompt_texts
from fisher_ld.training.loop import Training

METHOD = "fisher-ld"


@dataclass
class OnlineTeacher:
    """TeacherSignals from a forward pass of the teacher over the same packed windows."""

    scorer: Scorer
    lists: Lists
    prompts: Prompts
    layers: int
    width: int
    measured: StateStatistics

    def statistics(self) -> StateStatistics:
        return self.measured

    @torch.no_grad()
    def signals(self, examples: np.ndarray, names: Sequence[str]) -> dict[str, torch.Tensor]:
        numbers = np.unique(np.searchsorted(self.lists.offsets, examples, side="right") - 1)
        windows = [numbers[window] for window in take(self.lists, numbers).windows()]
        batch = self.scorer.pack(self.lists, windows, self.prompts)
        scored = asked(self.scorer, batch, names)
        order = batch.examples.argsort()[torch.from_numpy(examples).argsort().argsort()]
        return {name: SIGNALS[name].of(scored)[order] for name in names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="default: the first of run.data")
    parser.add_argument("--student", help="default: the first of run.students")
    parser.add_argument("--layers", type=int, help="of the student; default: those of its shape")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    params = load_params("params.yaml", {})
    paths = DataPaths(options.data or params.run.data[0])
    shape = params.students[options.student or params.run.students[0]]
    shape = shape.model_copy(update={"layers": options.layers or shape.layers})
    steps = {"steps": options.steps, "eval_every": options.steps, "checkpoint_every": options.steps}
    settings = params.distill.model_copy(update=steps)

    folder, processed = paths.model("teacher", params.run.teacher_seeds[0]), paths.processed
    lists = read_taught(processed)
    cache = TeacherCache.open(paths.cache, METHODS[METHOD].signals)
    teacher = setup(params.cluster, params.teacher.precision, params.seed)
    online_scorer = Scorer.placed(folder, teacher, frozen=True)
    teacher_prompts, measured = saved_prompts(folder, processed), cache.statistics()
    online = OnlineTeacher(online_scorer, lists, teacher_prompts, cache.layers, cache.width, measured)
    compute = setup(params.cluster, params.distill.precision, params.seed)
    scorer, tokenizer = Scorer.load(folder), AutoTokenizer.from_pretrained(folder)
    texts, template = read_texts(processed), read_template(folder)
    projected = shape.init == "spaced" and shape.hidden_size is not None
    states = cache.sample("states", SAMPLE, params.seed).flatten(0, 1) if projected else None
    found, fisher = read_json(paths.weights(METHOD)), params.fisher
    pairs = layer_map(settings.layer_map, cache.layers, shape.layers, shape.init, found["mass"])
    weighting = Weighting(pairs, found["weights"], found["depth_bias"], fisher.update_rate, fisher.update_interval)

    checkpoint: Any = SimpleNamespace(load=lambda: None, save=lambda step, state: None)
    training = Training("distilling", params.seed, lambda: 0.0, checkpoint, lambda values, step: None)

    def seconds(teacher: TeacherCache | OnlineTeacher) -> float:
        pieces = prompt_texts(texts, template)
        student, own = build_student(scorer, shape, tokenizer, pieces, params.seed, states)
        prompts = build_prompts(own, texts, template)
        began = time.perf_counter()
        distill(student.on(compute), teacher, METHODS[METHOD], weighting, lists, prompts, settings, training)
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
