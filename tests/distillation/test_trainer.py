from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2ForSequenceClassification

from fisher_ld.batches.packing import pack, step_plan
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.losses import l2, label_loss, output_loss
from fisher_ld.distillation.matching import LayerMatching, Matching, Weighting
from fisher_ld.distillation.methods import METHODS, Method, Phase
from fisher_ld.distillation.terms import Labels, Layers
from fisher_ld.distillation.trainer import TRAJECTORY, distill
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.loop import Training
from tests.distillation.conftest import PAIRS, WEIGHTS, MemoryTeacher
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
    matching = Matching(weighting, 2, done.teacher.statistics(), start, None, 0)
    term = LayerMatching(matching, Layers("uniform"))
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


# Cut at a validation: of 14 steps after the checkpoint at 8, of 12 after that at 3, the end of the first phase.
@pytest.mark.parametrize(
    ("method", "steps", "every", "until", "updates"),
    [("fisher-ld", 14, 4, 3, [0, 5, 10]), ("progressive", 12, 3, 2, [0])],
)
def test_an_interrupted_distillation_goes_on(tiny, tmp_path, distilled, method, steps, every, until, updates):
    """Student, maps and weights of Eq. 9, in one phase or in several."""
    teacher = distilled("none", steps=1, weights=()).teacher
    small = {"steps": steps, "eval_every": every, "checkpoint_every": every, "learning_rate": 3e-3}
    params, weighting = given({"distill": small}).distill, Weighting(PAIRS, WEIGHTS, [1.0] * 4, 0.5, 5, None)

    def run(folder, until=None):
        student, left = tiny.scorer(), until

        def validate():
            nonlocal left
            if left == 0:
                raise KeyboardInterrupt
            left = left and left - 1
            return 0.5

        training = Training(method, 0, validate, Checkpoint("distill", {}, folder), lambda values, step: None)
        row = METHODS[method]
        return student, *distill(student, teacher, row, weighting, tiny.lists, tiny.prompts, params, training)

    whole, fit, trajectory = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until)
    resumed, again, trajectory_again = run(tmp_path / "cut")
    assert trajectory["step"].unique(maintain_order=True).to_list() == updates
    assert trajectory_again.equals(trajectory)
    assert [row.get("layers") for row in again.curve] == [row.get("layers") for row in fit.curve]
    for name, parameter in resumed.named_parameters():
        assert torch.equal(parameter, whole.get_parameter(name))


@pytest.mark.parametrize("method", [name for name in METHODS if name != "pkd"])
def test_every_method_trains_in_its_phases_within_one_budget(distilled, tiny, method):
    """The rate begins anew with each phase, and each reads no other signal than its terms need."""
    hidden = replace(tiny.lists, positive=np.array([1, 1, -1, -1]))
    done = distilled(method, steps=12, lists=hidden if method == "ranking" else tiny.lists)
    phases = METHODS[method].phases(2)
    assert len(done.curve) == 12
    ends = np.rint(np.cumsum([phase.share for phase in phases]) * 12).astype(int)
    for begin, end, phase in zip([0, *ends[:-1]], ends, phases, strict=True):
        names = {term.name for term in phase.terms}
        rows = done.curve[begin:end]
        assert all(names == row.keys() & {term.name for term in METHODS[method].terms} for row in rows)
        rates = [row["learning_rate"] for row in rows]
        assert (max(rates) > 0.9 * 3e-3 and rates[-1] < rates[0]) or len(rates) < 3
    asked = {frozenset(names) for names in done.teacher.asked} - {frozenset({"states"})}
    wanted = {frozenset(s for term in phase.terms for s in term.signals) for phase in phases}
    assert asked <= wanted | {frozenset()}


def test_what_learns_from_windows_without_labels_is_refused_where_there_are_none(distilled):
    with pytest.raises(UserError, match=r"Ranking Distillation .*there are none: raise data\.transfer_windows"):
        distilled("ranking", steps=1)


@pytest.mark.parametrize(("method", "phase", "trained"), [("progressive", 1, {"1"}), ("fitnets", 0, {"0", "embed"})])
def test_a_layer_at_rest_does_not_train(distilled, monkeypatch, tiny, method, phase, trained):
    """Progressive KD in the phase of the second layer of two, FitNets in that of its middle one: nothing else moves,
    decay and all, but the embedding where the lowest layer trains."""
    row = replace(METHODS[method].phases(2)[phase], share=1.0)
    monkeypatch.setitem(METHODS, "alone", Method("Alone", "this test", "#111111", lambda layers: (row,)))
    done, start = distilled("alone", steps=5), tiny.scorer()
    moved = {
        name.split(".")[1] if "layers" in name else name.split("_")[0]
        for name, value in done.student.model.model.named_parameters()
        if not torch.equal(value, start.model.model.get_parameter(name))
    }
    assert moved == trained
    assert not any(parameter.requires_grad for parameter in done.student.parameters())


def test_adapt_starts_anew_where_its_phase_begins_after_another(distilled, monkeypatch):
    """On the student as it then is: the loss of a phase begins no higher than the constant predictor's."""
    late = Method("Late", "this test", "#222222", lambda layers: (Phase(0.5, (Labels(),)), Phase(0.5, (Layers(),))))
    monkeypatch.setitem(METHODS, "late", late)
    done = distilled("late", steps=40, learning_rate=3e-2)
    assert done.curve[20]["layers"] < 1.1


def test_a_model_with_dropout_and_learned_places_in_phases(distilled, monkeypatch, tiny):
    """Its places rest with the embedding, and Adapt starts on what the student is, not on what dropout leaves of it."""
    teacher, started = MemoryTeacher(tiny), []

    def gpt2():
        torch.manual_seed(0)
        sizes = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
        config = GPT2Config(vocab_size=32, **sizes, num_labels=2, pad_token_id=0)
        return Scorer(GPT2ForSequenceClassification(config).eval())

    monkeypatch.setattr(type(tiny), "scorer", lambda self: gpt2())
    matched = Phase(0.5, (Layers(),), only=(2, 2))
    monkeypatch.setitem(METHODS, "late", Method("Late", "this test", "#222222", lambda layers: (matched, matched)))
    adapted = LayerMatching._adapted
    monkeypatch.setattr(LayerMatching, "_adapted", lambda own: started.append(twice(own, adapted)) or started[-1])
    done = distilled("late", steps=4, teacher=teacher)
    assert len(started) == 3 and done.student.training is False  # two phases, one of which begins after another
    moved = [
        name
        for name, value in done.student.body.named_parameters()
        if not torch.equal(value, gpt2().body.get_parameter(name))
    ]
    assert moved and all(name.startswith("h.1.") or name.startswith("ln_f.") for name in moved)


def twice(own, adapted):
    first, second = adapted(own), adapted(own)
    assert torch.equal(first[0], second[0])
    return first


def test_a_phase_without_loss_is_refused(distilled):
    with pytest.raises(UserError, match=r"no loss to train on: expected distill\.layer_weight above 0"):
        distilled("minilm", steps=4, layer_weight=0.0)
