"""A teacher in memory, and a student that learns from it."""

from dataclasses import dataclass, field

import numpy as np
import polars as pl
import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.distillation.matching import Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.signals import SIGNALS, StateStatistics, asked
from fisher_ld.distillation.trainer import distill
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.loop import Fit, Training
from tests.given import given

WEIGHTS = (0.1, 0.2, 0.3, 0.4)
PAIRS = ((1, 1), (2, 1), (3, 2), (4, 2))


class MemoryTeacher:
    """The signals of a 4-layer scorer, but logits that know the labels."""

    def __init__(self, tiny):
        scorer = tiny.scorer(layers=4, seed=1)
        batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
        with torch.no_grad():
            scored = asked(scorer, batch, SIGNALS)
            known = {name: signal.of(scored) for name, signal in SIGNALS.items()}
        known["logits"] = 6 * batch.labels.nan_to_num(0.5) - 3
        self.known = {name: values[batch.examples.argsort()] for name, values in known.items()}
        self.layers, self.width = 4, 32
        self.asked = []  # the names of each time

    def statistics(self):
        return StateStatistics.of(self.known["states"])

    def signals(self, examples: np.ndarray, names):
        self.asked.append(tuple(names))
        return {name: self.known[name][examples] for name in names}


@dataclass
class Distilled:
    fit: Fit
    trajectory: pl.DataFrame
    teacher: MemoryTeacher
    student: Scorer
    with_states: list[bool] = field(default_factory=list)  # of each of the student's forward passes
    rows: list[int] = field(default_factory=list)  # packed, of each

    @property
    def curve(self) -> list[dict[str, float]]:
        return [row for row in self.fit.curve if "loss" in row]


@pytest.fixture
def distilled(tiny, tmp_path, monkeypatch):
    def run(method, steps=30, trace=None, weights=WEIGHTS, pairs=PAIRS, teacher=None, lists=None, **settings):
        done = Distilled(None, None, teacher or MemoryTeacher(tiny), tiny.scorer())  # type: ignore
        forward = done.student.forward

        def watched(batch, with_states=False, with_attention=False):
            done.with_states.append(with_states)
            done.rows.append(len(batch.input_ids))
            return forward(batch, with_states, with_attention)

        monkeypatch.setattr(done.student, "forward", watched)
        small = {"steps": steps, "eval_every": steps, "checkpoint_every": steps, "learning_rate": 3e-3}
        small |= {"batch_users": 2, "transfer_users": 1}
        params = given({"distill": small | settings}).distill
        checkpoint = Checkpoint("distill", {"method": method, **settings}, tmp_path)
        training = Training(method, 0, lambda: 0.5, checkpoint, lambda values, step: None)
        weighting = Weighting(pairs, weights, [1.0] * 4, 0.5, 10, trace)
        row = METHODS[method]
        read = lists or tiny.lists
        fitted = distill(done.student, done.teacher, row, weighting, read, tiny.prompts, params, training)
        done.fit, done.trajectory = fitted
        return done

    return run
