from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.losses import layer_losses
from fisher_ld.distillation.matching import LayerMatching, Matching, Weighting
from fisher_ld.distillation.signals import StateStatistics
from fisher_ld.distillation.terms import Layers
from fisher_ld.models.scorer import Scored, Scorer, unit_rms

EXAMPLES, TEACHER_WIDTH, WIDTH = 64, 4, 3


PAIRS = ((1, 1), (2, 1))


def states(layers, width, seed=0):
    return torch.randn(EXAMPLES, layers, width, generator=torch.Generator().manual_seed(seed))


TEACHER, STUDENT = states(3, TEACHER_WIDTH) * 5 + 2, states(2, WIDTH, seed=1)


def term(pairs=((1, 1), (2, 1), (3, 2)), order="own", dynamic=True, **changes):
    weighting = Weighting(pairs, [0.2, 0.3, 0.5], [1.0, 1.0, 1.0], update_rate=0.5, update_interval=2)
    own = {name: changes.pop(name) for name in list(changes) if hasattr(weighting, name)}
    matching = Matching(
        replace(weighting, **own), 2, StateStatistics.of(TEACHER), start=lambda: (STUDENT, TEACHER), recent_trace=None,
        seed=0,
    )  # fmt: skip
    return LayerMatching(replace(matching, **changes), Layers("fisher", order, dynamic))


def value(term, student=STUDENT, teacher=TEACHER):
    return term(Scored(torch.zeros(len(student)), student), {"states": teacher}, None)


def test_adapt_starts_as_the_ridge_regression_on_the_students_own_states():
    """What the student knows linearly of the teacher it has at the start; a constant it has wholly."""
    own = states(1, 4, seed=2)
    unit = unit_rms(own)
    teacher = torch.cat([unit @ torch.randn(4, 4), torch.randn(EXAMPLES, 1, 4)], 1)  # linear in it; noise
    asked = {"statistics": StateStatistics.of(teacher), "start": lambda: (own, teacher), "weights": [0.5, 0.5]}
    known, noise = (value(term([pair], depth_bias=[1.0, 1.0], **asked), own, teacher).item() for pair in PAIRS)
    assert known < 0.4 and noise == pytest.approx(1, abs=0.15)


def test_the_loss_of_a_student_that_knows_nothing_is_one_and_weights_say_what_each_layer_counts():
    one = term(dynamic=False)
    with torch.no_grad():
        one.maps.zero_()
        one.offsets.zero_()
    assert value(one).item() == pytest.approx(1, abs=1e-5)
    scaled = TEACHER * torch.tensor([1.0, 30.0, 1e3])[:, None]
    louder = term(dynamic=False, statistics=StateStatistics.of(scaled), start=lambda: (STUDENT, scaled))
    assert value(louder, teacher=scaled).item() == pytest.approx(value(term(dynamic=False)).item(), rel=1e-4)


def test_the_loss_is_the_weighted_sum_of_eq_8_over_the_pairs():
    one = term([(1, 2), (3, 1)], weights=[0.2, 0.5, 0.6], dynamic=False)
    assert one.weights.tolist() == pytest.approx([0.25, 0.75])  # of the layers that are matched
    targets, unit = StateStatistics.of(TEACHER).standardise(TEACHER), unit_rms(STUDENT)
    losses = [
        layer_losses(targets[:, [layer]], (unit[:, own] @ one.maps[place].T + one.offsets[place])[:, None]).item()
        for place, (layer, own) in enumerate([(0, 1), (2, 0)])
    ]
    assert value(one).item() == pytest.approx(0.25 * losses[0] + 0.75 * losses[1], rel=1e-5)


def test_layers_without_weight_are_refused():
    with pytest.raises(UserError, match=r"that are matched \(3\) have no weight in this method"):
        term([(3, 1)], weights=[0.5, 0.5, 0.0])


def test_a_control_takes_first_and_later_weights_in_its_own_order():
    one = term(order="reversed", recent_trace=lambda step: torch.tensor([6.0, 3.0, 1.0]))
    assert one.weights.tolist() == pytest.approx([0.5, 0.3, 0.2])
    one.begin_step(2)
    assert one.weights.tolist() == pytest.approx([0.3, 0.3, 0.4])  # half way to 0.1, 0.3, 0.6
    shuffled = term(order="shuffled")
    assert sorted(shuffled.weights.tolist()) == pytest.approx([0.2, 0.3, 0.5])
    assert shuffled.weights.tolist() != term().weights.tolist()


def test_eq_9_follows_the_teachers_trace_times_the_depth_factor():
    """w <- 0.5 w + 0.5 (4 * 1, 3 * 1, 1 * 3) / 10."""
    one = term(recent_trace=lambda step: torch.tensor([4.0, 3.0, 1.0]), depth_bias=[1.0, 1.0, 3.0])
    for step in range(4):
        one.begin_step(step)
    assert [row["step"] for row in one.trajectory] == [0, 0, 0, 2, 2, 2]
    assert one.weights.tolist() == pytest.approx([0.3, 0.3, 0.4])
    fixed = term(dynamic=False, recent_trace=lambda step: torch.tensor([4.0, 3.0, 1.0]))
    fixed.begin_step(2)
    assert len(fixed.trajectory) == 3


def test_eq_9_is_the_students_own_fisher_by_autograd(tiny):
    """||dz/ds||^2 of the unit-RMS state, a candidate at a time, in a scorer that scores each prompt alone."""
    scorer: Scorer = tiny.scorer(layers=2).double()
    batch = pack(tiny.lists, tiny.lists.windows()[:1], tiny.prompts, scorer.context())
    found = scorer(batch, with_states=True).sensitivity(batch)  # (3, 2)
    for place, example in enumerate(batch.examples.tolist()):
        ids = torch.tensor([tiny.prompts.example(tiny.lists, example)])
        hidden = []
        keep = lambda module, given, out, kept=hidden: kept.append(out)  # noqa: E731
        hooks = [layer.register_forward_hook(keep) for layer in scorer.layers]
        last = scorer.body(input_ids=ids, use_cache=False).last_hidden_state[0, -1]
        no, yes = scorer.model.score(last)
        for layer, gradient in enumerate(torch.autograd.grad(yes - no, hidden)):
            expected = gradient[0, -1].square().sum() * hidden[layer][0, -1].square().mean()
            assert found[place, layer].item() == pytest.approx(expected.item(), rel=1e-6)
        for hook in hooks:
            hook.remove()


def test_the_students_fisher_does_not_change_when_a_layers_stream_is_scaled_by_ten():
    """One layer of ten times the stream, in front of a norm: the answers are the same, and so is its importance."""

    def importance(factor):
        torch.manual_seed(0)
        hidden = torch.randn(5, 1, 8).requires_grad_()
        scaled = factor * hidden
        z = (unit_rms(scaled)[:, 0] @ torch.arange(8.0)).tanh()
        scored = Scored(z, scaled, [scaled])
        return scored.sensitivity(SimpleNamespace(decision=torch.tensor([[b, 0] for b in range(5)])))

    torch.testing.assert_close(importance(1.0), importance(10.0), rtol=1e-4, atol=1e-6)


def test_teacher_layers_that_share_a_student_layer_share_its_importance(monkeypatch):
    """Student layers of importance 3 and 1: the teacher layers get 1.5, 1.5 and 1."""
    monkeypatch.setattr(Scored, "sensitivity", lambda scored, batch: torch.tensor([[2.0, 1.0], [4.0, 1.0]]))
    one = term(update_rate=1.0)
    one.begin_step(2)
    value(one)
    assert one.weights.tolist() == pytest.approx([1.5 / 4, 1.5 / 4, 1 / 4])
    before = one.weights.tolist()
    one.begin_step(3)
    value(one)
    assert one.weights.tolist() == before


def test_what_eq_9_has_found_is_kept_with_the_term():
    one, other = term(recent_trace=lambda step: torch.tensor([4.0, 3.0, 1.0])), term()
    one.begin_step(2)
    other.load_state_dict(one.state_dict())
    assert torch.equal(other.weights, one.weights) and other.trajectory == one.trajectory
    assert not np.allclose(one.weights, term().weights)
