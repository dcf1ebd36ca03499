import math
from types import SimpleNamespace

import pytest
import torch

from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.losses import l2, label_loss, layer_losses, output_loss
from fisher_ld.training.losses import ranking_loss


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


Z = torch.tensor([0.5, -1.0, 2.0, 0.3, 1.5, -0.7, 0.0, 3.0, -2.0])
LABELS = torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 0, 1])


def batch_of(labels):
    return SimpleNamespace(labels=labels, lists=3)


@pytest.mark.parametrize("list_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("hidden", [[3], [3, 4, 5]], ids=["one label of a list", "all labels of a list"])
def test_only_lists_whose_labels_are_known_count(list_weight, hidden):
    labels, alone = LABELS.clone(), [0, 1, 2, 6, 7, 8]
    labels[hidden] = torch.nan
    found = label_loss(Z, batch_of(labels), list_weight)
    assert found is not None
    torch.testing.assert_close(found, ranking_loss(Z[alone], LABELS[alone], 2, list_weight)[0])
    assert abs(found - ranking_loss(Z, LABELS, 3, list_weight)[0]) > 0.01


def test_with_all_labels_the_loss_is_the_teachers_and_without_any_there_is_none():
    torch.testing.assert_close(label_loss(Z, batch_of(LABELS), 0.5), ranking_loss(Z, LABELS, 3, 0.5)[0])
    assert label_loss(Z, batch_of(torch.full((9,), torch.nan)), 0.5) is None


def test_a_list_without_labels_moves_nothing():
    z, labels = Z.clone().requires_grad_(), LABELS.clone()
    labels[3:6] = torch.nan
    found = label_loss(z, batch_of(labels), 0.5)
    assert found is not None
    found.backward()
    assert z.grad is not None
    assert z.grad[3:6].tolist() == [0, 0, 0] and z.grad[[0, 1, 2, 6, 7, 8]].all()


def test_l2_sums_all_squares():
    assert l2([torch.tensor([1.0, 2.0]), torch.tensor([[3.0]])]).item() == 14


def test_layer_maps():
    assert layer_map("all", 6, 2) == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert layer_map("spaced", 6, 2) == [(3, 1), (6, 2)]
    assert layer_map("last", 6, 2) == [(5, 1), (6, 2)]
    assert layer_map("fisher", 6, 2, [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]) == [(2, 1), (4, 2)]
    with pytest.raises(ValueError, match="expected the Fisher mass of 6 layers"):
        layer_map("fisher", 6, 2)
