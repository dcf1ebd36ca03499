from __future__ import annotations

import pytest
import torch
from torch import nn

from fisher_ld.runtime import Checkpoint
from fisher_ld.training import Schedule, fit

SCORES = [0.1, 0.3, 0.2, 0.25, 0.4]  # of the validations, one every two steps


def run(patience, folder):
    """The fit, the weight at every validation, and that at the end."""
    module, seen = nn.Linear(1, 1, bias=False), []

    def validate():
        seen.append(module.weight.item())
        return SCORES[len(seen) - 1]

    def loss(entry, step):
        return module(torch.ones(1, 1)).sum(), {}, 1

    schedule = Schedule(0.1, 0.0, warmup=0.1, eval_every=2, patience=patience, checkpoint_every=100)
    checkpoint = Checkpoint("test", {"patience": patience}, folder)
    fitted = fit(module, range(10), loss, validate, schedule, checkpoint, lambda values, step: None, "testing")
    return fitted, seen, module.weight.item()


@pytest.mark.parametrize("patience, steps, best", [(2, 8, 1), (1, 6, 1), (None, 10, 4)])
def test_patience_ends_the_fit_early_with_the_weights_of_its_best_validation(patience, steps, best, tmp_path):
    fitted, seen, weight = run(patience, tmp_path)
    assert (fitted.steps, fitted.best_step, fitted.best_score) == (steps, 2 * (best + 1), SCORES[best])
    assert len(seen) == steps // 2 and weight == seen[best] and len(set(seen)) == len(seen)


def test_the_rate_warms_up_and_falls_to_zero():
    schedule = Schedule(1.0, 0.0, warmup=0.2, eval_every=1, patience=None, checkpoint_every=1)
    rates = [schedule.rate(step, 10) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[10] == pytest.approx(0)
    assert rates[2:] == sorted(rates[2:], reverse=True)
