from __future__ import annotations

import pytest
import torch
from torch import nn

from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.training.loop import Schedule, Training, fit, resumed_of

SCORES = [0.1, 0.1, 0.3, 0.2, 0.25, 0.4]  # of the validations: at the start, then one every two steps


def training(folder, validate=lambda: 0.5, key=None, log=lambda values, step: None):
    return Training("testing", 0, validate, Checkpoint("test", key or {}, folder), log)


def run(patience, folder, scores=SCORES):
    """The fit, the weight at every validation, and that at the end."""
    module, seen = nn.Linear(1, 1, bias=False), []

    def validate():
        seen.append(module.weight.item())
        return scores[len(seen) - 1]

    def loss(entry, step):
        return module(torch.ones(1, 1)).sum(), {}, 1

    schedule = Schedule(0.1, 0.0, warmup=0.1, eval_every=2, patience=patience, checkpoint_every=100)
    fitted = fit(module, range(10), loss, schedule, training(folder, validate, {"patience": patience}))
    return fitted, seen, module.weight.item()


@pytest.mark.parametrize("patience, steps, best", [(2, 8, 2), (1, 6, 2), (9, 10, 5)])
def test_patience_ends_the_fit_early_with_the_weights_of_its_best_validation(patience, steps, best, tmp_path):
    fitted, seen, weight = run(patience, tmp_path)
    assert (fitted.steps, fitted.best_step, fitted.best_score) == (steps, 2 * best, SCORES[best])
    assert len(seen) == steps // 2 + 1 and weight == seen[best] and len(set(seen)) == len(seen)


def test_without_patience_all_steps_are_made_and_the_best_weights_stay(tmp_path):
    fitted, seen, weight = run(None, tmp_path, scores=[0.0, *SCORES[:0:-1]])
    assert (fitted.steps, fitted.best_step, fitted.best_score) == (10, 2, SCORES[-1]) and weight == seen[1]


def test_the_start_is_on_the_curve_and_no_candidate(tmp_path):
    fitted, _, _ = run(9, tmp_path, scores=[0.5, *SCORES[1:]])
    assert (fitted.best_step, fitted.best_score) == (10, 0.4)
    assert fitted.table().select("step", "validation_ndcg_10").row(0) == (0, 0.5)
    assert fitted.table()["step"].to_list() == list(range(11))
    assert fitted.table()["loss"].null_count() == 1  # at the start nothing but the validation is measured
    assert fitted.summary() == {"steps": 10, "best_step": 10, "validation_ndcg_10": 0.4}


def test_in_cycles_only_the_last_ones_validations_are_candidates_and_each_has_an_optimiser_of_its_own(tmp_path):
    module, scores, asked = nn.Linear(1, 1, bias=False), iter([0.1, 0.9, 0.8, 0.2, 0.4, 0.3]), []

    def loss(entry, step):
        asked.append(module.weight.item())
        return (1.0 if step < 4 else -1e-3) * module(torch.ones(1, 1)).sum(), {}, 1

    schedule = Schedule(0.1, 0.0, 0.0, eval_every=2, patience=None, checkpoint_every=100, begins=(0, 4))
    fitted = fit(module, range(10), loss, schedule, training(tmp_path, lambda: next(scores)))
    assert (fitted.best_step, fitted.best_score) == (8, 0.4)
    assert asked[5] - asked[4] == pytest.approx(0.1, rel=0.01)  # a whole step at once, whatever the gradients before


@pytest.mark.parametrize("value, found", [(torch.nan, "nan and"), (0.0, "0.0 and its gradient norm inf")])
def test_what_is_not_finite_stops_before_the_weights_change(tmp_path, value, found):
    module = nn.Linear(1, 1)

    def loss(entry, step):
        seen.append(module.weight.item())
        output = module(torch.ones(1, 1))
        return ((output - output.detach() + value).sqrt() if step == 3 else output).sum(), {"bce": step}, 1

    seen = []
    schedule = Schedule(0.1, 0.0, warmup=0.1, eval_every=2, patience=None, checkpoint_every=100)
    with pytest.raises(UserError, match=rf"testing: the loss is {found}.* at step 3, .*learning rate .*'bce': 3"):
        fit(module, range(10), loss, schedule, training(tmp_path))
    assert module.weight.item() == seen[-1]


def test_the_rate_warms_up_and_falls_to_zero():
    schedule = Schedule(1.0, 0.0, warmup=0.2, eval_every=1, patience=None, checkpoint_every=1)
    rates = [schedule.rate(step, 10) for step in range(11)]
    assert rates[:3] == [0.5, 1.0, 1.0] and rates[10] == pytest.approx(0)
    assert rates[2:] == sorted(rates[2:], reverse=True)


def test_a_resumed_fit_logs_its_whole_curve_once(tmp_path):
    def start(stop, logged):
        module = nn.Linear(1, 1)

        def loss(entry, step):
            if step == stop:
                raise KeyboardInterrupt
            return module(torch.ones(1, 1)).sum(), {"bce": float(step)}, 1

        schedule = Schedule(0.1, 0.0, warmup=0.1, eval_every=2, patience=None, checkpoint_every=3)
        log = lambda values, step: logged.append((step, *sorted(values)))  # noqa: E731
        return fit(module, range(8), loss, schedule, training(tmp_path, log=log))

    whole, before, after = [], [], []
    with pytest.raises(KeyboardInterrupt):
        start(5, before)
    resumed = start(None, after)
    whole = [(step, *names) for step, *names in after]
    assert len(before) == 1 + 5 + 2 and len(whole) == len(set(whole)) == 1 + 8 + 4
    assert [row["step"] for row in resumed.curve] == [step for step, *_ in whole]


def test_what_is_resumed_lies_where_its_parameter_does_and_not_in_the_file():
    saved = torch.zeros(3)
    assert resumed_of(torch.tensor(5.0), torch.zeros(3, device="meta")).device.type == "meta"  # AdamW's step too
    assert resumed_of(saved, nn.Parameter(torch.ones(3))).data_ptr() != saved.data_ptr()
