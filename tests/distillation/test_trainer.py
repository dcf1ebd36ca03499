from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch

from fisher_ld.batches.packing import pack, step_plan
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.distillation.losses import l2, label_loss, output_loss
from fisher_ld.distillation.matching import LayerMatching, Matching, Weighting
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.trainer import TRAJECTORY, distill
from fisher_ld.training.loop import Training
from tests.distillation.conftest import PAIRS, WEIGHTS
from tests.given import given


def test_without_distillation_the_teacher_is_never_asked(distilled):
    done = distilled("none", weights=())
    assert not done.teacher.asked and not any(done.with_states)
    assert done.trajectory.is_empty() and done.trajectory.schema == TRAJECTORY
    assert {"output", "layers"}.isdisjoint(done.curve[0])
    assert done.curve[0]["loss"] == pytest.approx(given().distill.alpha * done.curve[0]["labels"])


def test_logits_alone_never_ask_for_states(distilled):
    done = distilled("logits", weights=())
    assert set(done.teacher.asked) == {("logits",)} and not any(done.with_states)
    assert done.trajectory.is_empty()
    assert {"labels", "output"} < done.curve[0].keys() and "layers" not in done.curve[0]


@pytest.mark.parametrize("method", ["fisher", "fisher-ld"])
def test_every_component_falls_and_only_dynamic_weights_move(distilled, method):
    done = distilled(method)
    assert {*chain(*done.teacher.asked)} == {"logits", "states"} and all(done.with_states)
    for part in ("labels", "output", "layers"):
        values = [row[part] for row in done.curve]
        assert np.mean(values[-4:]) < np.mean(values[:4])
    weights = done.trajectory.partition_by("step", maintain_order=True)
    assert weights[0]["layer"].to_list() == [1, 2, 3, 4]
    assert weights[0]["weight"].to_list() == pytest.approx(WEIGHTS)
    assert [part["step"][0] for part in weights] == ([0, 10, 20] if method == "fisher-ld" else [0])
    assert weights[-1]["weight"].sum() == pytest.approx(1)
    assert (method == "fisher-ld") == (weights[-1]["weight"].to_list() != weights[0]["weight"].to_list())


@pytest.mark.parametrize("explicit_l2", [False, True])
def test_the_first_loss_is_eq_7_by_hand(distilled, tiny, explicit_l2):
    asked = {"alpha": 0.5, "list_weight": 0.3, "output_weight": 2.0, "layer_weight": 3.0, "temperature": 2.0}
    done = distilled("uniform", steps=1, weights=(0.25,) * 4, l2=0.01, explicit_l2=explicit_l2, **asked)
    student = tiny.scorer()
    (windows,) = step_plan(tiny.lists, tiny.lists.windows(), tiny.prompts, 2, 1, seed=0)
    batch = pack(tiny.lists, windows, tiny.prompts, student.context())
    scored = student(batch, with_states=True)
    known = done.teacher.signals(batch.examples.numpy(), ["logits", "states"])
    start = lambda: (scored.states.detach(), known["states"])  # noqa: E731
    weighting = Weighting(PAIRS, [0.25] * 4, [1.0] * 4, 0.5, 10)
    matching = Matching(weighting, done.teacher.statistics(), start, None, 0)
    term = LayerMatching(matching, "own", False)
    parts = {
        "labels": label_loss(scored.logits, batch, 0.3),
        "output": output_loss(known["logits"], scored.logits, 2.0),
        "layers": term(scored, known, batch),
        "l2": l2(student.parameters()),
    }
    expected = 0.5 * parts["labels"] + 2 * parts["output"] + 3 * parts["layers"] + explicit_l2 * 0.01 * parts["l2"]
    (row,) = done.curve
    assert row["loss"] == pytest.approx(expected.item(), rel=1e-5)
    assert {n: row[n] for n in parts if n in row} == pytest.approx(
        {n: v.item() for n, v in parts.items() if explicit_l2 or n != "l2"}, rel=1e-5
    )


def test_dynamic_weights_from_the_teacher_move_to_its_trace_on_recent_examples(distilled):
    """Eq. 9 by hand: w <- 0.5 w + 0.5 (4, 3, 2, 1) / 10, after steps 10 and 20."""
    asked = []

    def trace(examples):
        asked.append(examples)
        return torch.tensor([4.0, 3.0, 2.0, 1.0], dtype=torch.float64)

    weights = distilled("fisher-ld", trace=trace).trajectory["weight"].to_list()
    assert weights[4:8] == pytest.approx([0.25, 0.25, 0.25, 0.25])
    assert weights[8:] == pytest.approx([0.325, 0.275, 0.225, 0.175])
    assert len(asked) == 2 and all(len(set(examples)) == len(examples) > 0 for examples in asked)
    assert len(distilled("fisher", trace=trace).trajectory) == 4 and len(asked) == 2


def test_transfer_windows_are_read_by_methods_with_a_teacher_and_labels_alike_by_all(distilled, tiny):
    """Of four windows two are labelled; a step reads both, and one of the others where there is a teacher."""
    hidden = replace(tiny.lists, positive=np.array([1, 1, -1, -1]))
    read = {}
    for method in ("none", "logits", "uniform"):
        done = distilled(method, steps=3, lists=hidden, learning_rate=1e-12)
        read[method] = done.rows[-3:]
        assert np.isfinite([row["loss"] for row in done.curve]).all()
    assert read["none"] == [2, 2, 2] and read["logits"] == read["uniform"] == [3, 3, 3]
    first = [distilled(method, steps=1, lists=hidden).curve[0]["labels"] for method in ("none", "logits", "uniform")]
    assert first == pytest.approx([first[0]] * 3)


def test_an_interrupted_distillation_goes_on(tiny, tmp_path, distilled):
    """Student, maps and weights of Eq. 9."""
    teacher = distilled("none", steps=1, weights=()).teacher
    small = {"steps": 14, "eval_every": 4, "checkpoint_every": 4, "learning_rate": 3e-3}
    params, weighting = given({"distill": small}).distill, Weighting(PAIRS, WEIGHTS, [1.0] * 4, 0.5, 5, None)

    def run(folder, until=None):
        student, left = tiny.scorer(), until

        def validate():
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left = left and left - 1
            return 0.5

        training = Training("fisher-ld", 0, validate, Checkpoint("distill", {}, folder), lambda values, step: None)
        row = METHODS["fisher-ld"]
        return student, *distill(student, teacher, row, weighting, tiny.lists, tiny.prompts, params, training)

    whole, fit, trajectory = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until=3)  # at the start, after 4 and 8 steps, not after 12: goes on from 8
    resumed, again, trajectory_again = run(tmp_path / "cut")
    assert trajectory["step"].unique(maintain_order=True).to_list() == [0, 5, 10]
    assert trajectory_again.equals(trajectory)
    assert [row.get("layers") for row in again.curve] == [row.get("layers") for row in fit.curve]
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name))
