import pytest
import torch

from fisher_ld.distillation.objective import objective
from fisher_ld.models.scorer import Scored

STUDENT = Scored(torch.tensor([1.0, -1.0]), None)


def value(number):
    return lambda student, signals, batch: torch.tensor(number)


def absent(student, signals, batch):
    return None


def test_the_loss_is_the_weighted_sum_of_its_terms():
    total, parts = objective(
        {"labels": value(2.0), "output": value(3.0)}, {"labels": 0.5, "output": 10.0}, STUDENT, {}, None
    )
    assert total.item() == 31.0 and parts == {"labels": 2.0, "output": 3.0}


def test_a_term_that_is_absent_leaves_the_other_weights_as_they_are():
    losses = {"labels": absent, "output": value(3.0), "layers": value(1.0)}
    weights = {"labels": 0.5, "output": 10.0, "layers": 0.25}
    total, parts = objective(losses, weights, STUDENT, {}, None)
    assert total.item() == 30.25  # not scaled up to the weight of three terms
    assert parts == {"output": 3.0, "layers": 1.0}


def test_a_batch_that_no_term_can_learn_from_is_an_error():
    with pytest.raises(ValueError, match="at least one of labels, output can learn from, got none"):
        objective({"labels": absent, "output": absent}, {"labels": 1.0, "output": 1.0}, STUDENT, {}, None)


def test_terms_see_the_student_the_signals_and_the_batch_and_the_student_gets_the_gradient():
    student, signals, batch = Scored(STUDENT.logits.clone().requires_grad_(), None), {"logits": torch.ones(2)}, object()
    seen = []

    def term(*given):
        seen.append(given)
        return (given[0].logits * given[1]["logits"]).sum()

    total, _ = objective({"one": term}, {"one": 3.0}, student, signals, batch)
    total.backward()
    assert seen == [(student, signals, batch)] and student.logits.grad.tolist() == [3.0, 3.0]
