import math

import pytest
import torch

from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.losses import l2, layer_losses, output_loss
from fisher_ld.distillation.trainer import LayerMatcher
from fisher_ld.training.adapt import ranking_loss


def test_output_loss_is_the_kl_of_two_bernoulli_at_a_temperature():
    p, q = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.25))  # logits 2 and -1 at T = 4
    expected = 16 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert output_loss(torch.tensor([2.0]), torch.tensor([-1.0]), 4.0).item() == pytest.approx(expected, rel=1e-5)
    assert output_loss(torch.tensor([3.0]), torch.tensor([3.0]), 4.0).item() == pytest.approx(0)


def test_layer_losses_see_direction_not_scale():
    states = torch.randn(5, 3, 8)
    assert layer_losses(states, 100 * states).tolist() == pytest.approx([0] * 3, abs=1e-6)
    assert layer_losses(states, -states).tolist() == pytest.approx([4] * 3, rel=1e-4)


def test_ranking_loss_of_a_constant_scorer():
    labels = torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 0])
    _, parts = ranking_loss(torch.zeros(8), labels, 2, 0.5)
    assert parts["bce"] == pytest.approx(math.log(2))
    assert parts["list_softmax"] == pytest.approx(math.log(4))


def test_l2_sums_all_squares():
    assert l2([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]).item() == 14


def test_layer_maps():
    assert layer_map("all", 6, 2) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert layer_map("spaced", 6, 2) == [(3, 1), (6, 2)]
    assert layer_map("last", 6, 2) == [(5, 1), (6, 2)]
    assert layer_map("fisher", 6, 2, [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]) == [(2, 1), (4, 2)]
    with pytest.raises(ValueError, match="expected the Fisher mass of 6 layers"):
        layer_map("fisher", 6, 2)


def test_maps_start_as_the_identity_or_orthogonal():
    for student_width in (4, 3):
        for one in LayerMatcher([(1, 1), (2, 1)], [0.5, 0.5], student_width, 4).maps:
            torch.testing.assert_close(one.T @ one, torch.eye(student_width))
    assert torch.equal(LayerMatcher([(1, 1)], [1.0], 4, 4).maps[0], torch.eye(4))


def test_eq_9_moves_the_weights_toward_the_recent_gradients():
    matcher = LayerMatcher([(1, 1), (2, 1)], [0.5, 0.5], 4, 4)
    teacher = torch.randn(6, 2, 4)
    student = teacher[:, :1].clone().requires_grad_()  # layer 1 is matched exactly: its loss has no gradient
    matcher(teacher, student, dynamic=True)
    matcher.update(0.1)
    assert matcher.weights.tolist() == pytest.approx([0.45, 0.55], abs=1e-4)
    assert matcher.recent.tolist() == [0, 0]
