"""The planted case: nothing that is measured on real data is believed before this passes.

A toy teacher forms its answer in two known layers, early or in the middle, while the others carry large signal that has
nothing to do with it. Fisher-LD must find them, and must find nothing where information is equal in all layers.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.weights import ordered
from fisher_ld.fisher.profile import KINDS
from tests.planted.experiment import SEEDS, comparisons, traces, weighting
from tests.planted.world import Form, Teacher

# Of 12 layers. Reversed they are 11 and 9, 9 and 6; no shuffle of the five seeds puts their weights on them again.
PLANTED = {"early": Form(planted=(2, 4)), "middle": Form(planted=(4, 7))}
# Information is equal in all layers, and the traces too; or these are those of `middle`, with which it has the weights.
EQUAL = {"equal traces": Form(planted=None), "other weights": Form(planted=None, traced=(4, 7))}
CONTROLS = ("uniform", "fisher-shuffled", "fisher-reversed")
LARGE = 0.1  # of NDCG@10: Fisher gains more in the planted case; with equal information no interval reaches it


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Which is what matrices of 16 columns need."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def verdicts(form, methods):
    """(a, b) -> the rows that compare them, in whatever group."""
    found = {}
    for row in comparisons(form, methods):
        found.setdefault((row["a"].removeprefix("toy/"), row["b"].removeprefix("toy/")), []).append(row)
    return found


def check_fisher_wins(form):
    found = verdicts(form, ("fisher", "fisher-ld", *CONTROLS))
    for pair in (("fisher", "uniform"), *(("fisher-ld", control) for control in CONTROLS)):
        for row in found[pair]:
            assert row["verdict"] == "shown above", row
            assert row["low"] > 0 and row["difference"] > LARGE, row
    for row in found["fisher-reversed", "uniform"]:
        assert row["verdict"] == "shown below" and row["high"] < 0, row


@pytest.mark.parametrize("form", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("kind", KINDS)
def test_the_trace_lies_in_the_planted_layers(form, kind):
    share = traces(form, kind).share
    inside = [layer - 1 for layer in form.planted]
    assert share[inside] == pytest.approx(0.48, abs=0.02)
    others = np.delete(share, inside)
    assert others.min() > 0 and others.max() < 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_the_fisher_of_the_state_does_not_follow_the_parametrisation(kind):
    """Two layers with smaller weights and larger inputs have nearly all of the trace; their states are as before."""
    found = traces(EQUAL["other weights"], kind)
    assert found.share[[3, 6]] == pytest.approx(0.48, abs=0.02)
    assert found.state_fisher.share == pytest.approx(1 / Teacher.layers, rel=1e-3)
    assert found.relative.share == pytest.approx(1 / Teacher.layers, rel=1e-3)


@pytest.mark.parametrize("form", PLANTED.values(), ids=PLANTED)
def test_no_control_puts_the_weights_where_fisher_does(form):
    own = np.array(weighting(form, METHODS["fisher"], 2).weights)
    inside = [layer - 1 for layer in form.planted]
    for order in ("reversed", "shuffled"):
        for seed in range(SEEDS):
            assert ordered(own, order, seed)[inside].sum() < 0.02 < 0.95 < own[inside].sum()


@pytest.mark.parametrize("form", PLANTED.values(), ids=PLANTED)
def test_fisher_is_shown_above_uniform_its_shuffle_and_its_reversal_which_loses(form):
    check_fisher_wins(form)


@pytest.mark.parametrize("name", ["fisher", "fisher-ld"])
def test_with_fisher_and_reversed_exchanged_in_the_table_that_fails(name, monkeypatch):
    own, other = METHODS[name], METHODS["fisher-reversed"]
    monkeypatch.setitem(METHODS, name, other)
    monkeypatch.setitem(METHODS, "fisher-reversed", own)
    with pytest.raises(AssertionError, match="shown below"):
        check_fisher_wins(PLANTED["middle"])


@pytest.mark.parametrize("form", EQUAL.values(), ids=EQUAL)
def test_with_information_equal_in_all_layers_no_difference_is_shown(form):
    """Nor could a large one have been missed."""
    found = verdicts(form, ("fisher-ld", *CONTROLS))
    for control in CONTROLS:
        for row in found["fisher-ld", control]:
            assert row["verdict"] in ("equal", "not shown"), row
            assert max(row["detectable"], -row["low"], row["high"]) < LARGE, row
