import pytest
import torch

from fisher_ld.distillation.outcome import outcome
from fisher_ld.training.loop import Fit

START = {"a": torch.tensor([3.0, 0.0]), "b": torch.tensor([4.0])}


def fit(layers, validations):
    curve = [{"step": step, "loss": 1.0, **({} if value is None else {"layers": value})} for step, value in layers]
    curve += [{"step": step, "validation_ndcg_10": value} for step, value in validations]
    return Fit(0.3, 99, 150, curve)


def test_how_far_the_weights_moved_is_a_share_of_where_they_started():
    end = {"a": torch.tensor([3.0, 3.0]), "b": torch.tensor([0.0])}  # 5 from a start of norm 5
    told = outcome(START, end, fit([(1, None)], [(0, 0.2), (1, 0.3)]))
    assert told["moved"] == pytest.approx(1) and told["layer_loss"] is None
    assert outcome(START, START, fit([(1, None)], [(0, 0.2)]))["moved"] == 0


def test_the_layer_loss_is_of_the_last_steps_to_the_best_and_gains_of_the_validations():
    layers = [(step, 0.5 if 50 <= step < 100 else 9.0) for step in range(150)]
    told = outcome(START, START, fit(layers, [(0, 0.2), (50, 0.3), (100, 0.35)]))
    assert told["layer_loss"] == pytest.approx(0.5)
    assert (told["validation_start"], told["gain_last"]) == (0.2, pytest.approx(0.05))
