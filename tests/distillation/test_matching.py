import pytest
import torch

from fisher_ld.distillation.losses import layer_losses
from fisher_ld.distillation.matching import LayerMatching, Matching
from fisher_ld.models.scorer import Scored

PAIRS = [(1, 1), (2, 1)]


def matching(student_width=4, pairs=PAIRS, weights=(0.5, 0.5), dynamic=True, trace=None, rate=0.1, interval=2):
    device = torch.device("cpu")
    return LayerMatching(Matching(pairs, list(weights), 4, student_width, device, rate, interval, trace), dynamic)


def compared(layer_term, teacher, student):
    return layer_term(Scored(torch.zeros(len(student)), student), {"states": teacher}, None)


def test_maps_start_as_the_identity_or_orthogonal():
    for student_width in (4, 3):
        for one in matching(student_width).maps:
            torch.testing.assert_close(one.T @ one, torch.eye(student_width))
    assert torch.equal(matching(pairs=[(1, 1)]).maps[0], torch.eye(4))


def test_the_loss_is_the_weighted_sum_of_eq_8_over_the_pairs():
    term = matching(3, pairs=[(1, 2), (3, 1)], weights=(0.2, 0.5, 0.6), dynamic=False)
    assert term.weights.tolist() == pytest.approx([0.25, 0.75])  # of the layers that are matched
    teacher, student = torch.randn(5, 3, 4), torch.randn(5, 2, 3)
    losses = [
        layer_losses(teacher[:, [layer]], (student[:, own] @ term.maps[place].T)[:, None]).item()
        for place, (layer, own) in enumerate([(0, 1), (2, 0)])
    ]
    assert compared(term, teacher, student).item() == pytest.approx(0.25 * losses[0] + 0.75 * losses[1], rel=1e-5)


def test_eq_9_moves_the_weights_toward_the_recent_gradients():
    term = matching()
    teacher = torch.randn(6, 2, 4)
    student = teacher[:, :1].clone().requires_grad_()  # layer 1 is matched exactly: its loss has no gradient
    compared(term, teacher, student)
    term.update()
    assert term.weights.tolist() == pytest.approx([0.45, 0.55], abs=1e-4)
    assert term.recent.tolist() == [0, 0]


def test_eq_9_adds_up_the_squared_gradients_since_the_last_update():
    """w <- 0.9 w + 0.1 g / sum(g), where g is the squared gradients of both batches, by autograd alone."""
    term, squares = matching(), torch.zeros(2)
    for _ in range(2):
        teacher, student = torch.randn(6, 2, 4), torch.randn(6, 1, 4, requires_grad=True)
        compared(term, teacher, student)
        adapted = student.detach().expand(-1, 2, -1).clone().requires_grad_()  # the maps are the identity
        (gradient,) = torch.autograd.grad(layer_losses(teacher, adapted).sum(), adapted)
        squares += gradient.square().sum((0, 2))
    term.update()
    assert term.weights.tolist() == pytest.approx((0.45 + 0.1 * squares / squares.sum()).tolist(), rel=1e-5)


@pytest.mark.parametrize("dynamic, expected", [(True, [0, 2, 4]), (False, [0])])
def test_the_weights_change_every_interval_where_they_are_dynamic(dynamic, expected):
    asked = []

    def trace(step):
        asked.append(step)
        return torch.tensor([3.0, 1.0], dtype=torch.float64)

    term = matching(dynamic=dynamic, trace=trace)
    for step in range(6):
        term.begin_step(step)
    assert [row["step"] for row in term.trajectory[::2]] == expected and asked == expected[1:]
    assert [row["layer"] for row in term.trajectory[:2]] == [1, 2]


def test_what_eq_9_has_found_is_kept_with_the_term():
    term, other = matching(), matching()
    compared(term, torch.randn(6, 2, 4), torch.randn(6, 1, 4, requires_grad=True))
    term.begin_step(2)
    compared(term, torch.randn(6, 2, 4), torch.randn(6, 1, 4, requires_grad=True))
    other.load_state_dict(term.state_dict())
    assert torch.equal(other.weights, term.weights) and torch.equal(other.recent, term.recent)
    assert term.recent.all() and len(term.trajectory) == 4 and other.trajectory == term.trajectory
