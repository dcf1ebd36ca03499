import numpy as np
import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.config.params import Distill, Fisher
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.trainer import distill
from fisher_ld.models.scorer import unit_rms


class MemoryTeacher:
    """States of a 4-layer scorer, and logits that know the labels."""

    def __init__(self, tiny):
        scorer = tiny.scorer(layers=4, seed=1)
        batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
        with torch.no_grad():
            states = scorer(batch, with_hidden_states=True)[1]
        self.z = 6 * batch.labels - 3
        self.states, self.layers, self.width, self.asked = unit_rms(states), 4, 32, 0

    def signals(self, examples: np.ndarray):
        self.asked += 1
        return self.z[examples], self.states[examples]


@pytest.fixture
def distilled(tiny, tmp_path):
    def run(method, steps=30, teacher_trace=None, **settings):
        teacher, student = MemoryTeacher(tiny), tiny.scorer()
        params = Distill(steps=steps, eval_every=steps, checkpoint_every=steps, learning_rate=3e-3, **settings)
        fisher = Fisher(update_interval=10, update_rate=0.5)
        checkpoint = Checkpoint("distill", {"method": method}, tmp_path)
        fit, trajectory = distill(
            student, teacher, METHODS[method], [0.1, 0.2, 0.3, 0.4], tiny.lists, tiny.prompts, params,
            fisher, lambda: 0.5, checkpoint, lambda values, step: None, 0, method, teacher_trace,
        )  # fmt: skip
        return [row for row in fit.curve if "loss" in row], trajectory, teacher

    return run


def test_without_distillation_the_teacher_is_never_asked(distilled):
    curve, trajectory, teacher = distilled("none")
    assert teacher.asked == 0
    assert not trajectory
    assert {"output", "layers"}.isdisjoint(curve[0])
    labels = 0.5 * curve[0]["bce"] + 0.5 * curve[0]["list_softmax"]
    assert curve[0]["loss"] == pytest.approx(Distill().alpha * labels)


def test_the_truncated_teacher_is_not_trained(distilled):
    curve, trajectory, teacher = distilled("truncated")
    assert (curve, trajectory, teacher.asked) == ([], [], 0)


@pytest.mark.parametrize("method", ["fisher", "fisher-ld"])
def test_every_component_falls_and_only_dynamic_weights_move(distilled, method):
    curve, trajectory, _ = distilled(method)
    for part in ("bce", "output", "layers"):
        values = [row[part] for row in curve]
        assert np.mean(values[-4:]) < np.mean(values[:4])
    assert [row["weight"] for row in trajectory[:4]] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    steps = [row["step"] for row in trajectory[::4]]
    assert steps == ([0, 10, 20] if method == "fisher-ld" else [0])
    assert sum(row["weight"] for row in trajectory[-4:]) == pytest.approx(1)


def test_the_loss_is_the_weighted_sum_of_its_parts(distilled):
    curve, _, _ = distilled("uniform", steps=1, alpha=0.5, list_weight=0.0, output_weight=2.0, layer_weight=3.0)
    (row,) = curve
    assert row["loss"] == pytest.approx(0.5 * row["bce"] + 2 * row["output"] + 3 * row["layers"], rel=1e-5)


def test_dynamic_weights_from_the_teacher_move_to_its_trace_on_recent_examples(distilled):
    """Eq. 9 by hand: w <- 0.5 w + 0.5 (4, 3, 2, 1) / 10, after steps 10 and 20."""
    asked = []

    def trace(examples):
        asked.append(examples)
        return torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)

    _, trajectory, _ = distilled("fisher-ld", teacher_trace=trace)
    assert [row["weight"] for row in trajectory[4:8]] == pytest.approx([0.25, 0.25, 0.25, 0.25])
    assert [row["weight"] for row in trajectory[8:]] == pytest.approx([0.325, 0.275, 0.225, 0.175])
    assert len(asked) == 2 and all(len(set(examples)) == len(examples) > 0 for examples in asked)
    _, trajectory, _ = distilled("fisher", teacher_trace=trace)
    assert len(trajectory) == 4 and len(asked) == 2
