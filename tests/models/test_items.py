from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from fisher_ld.models import items
from fisher_ld.models.items import DECAY, followers, learn_items, pair_loss
from fisher_ld.runtime import Checkpoint
from fisher_ld.training import Schedule


def test_pairs_are_counted_from_histories_to_positives(tiny):
    # user u likes u, u + 1, u + 2, and then u + 3, the one list's positive
    pairs = torch.from_numpy(followers(tiny.lists, 8).toarray())
    expected = torch.zeros(8, 8)
    for user in range(4):
        for between, earlier in enumerate((user + 2, user + 1, user)):
            expected[earlier, user + 3] += DECAY**between
    torch.testing.assert_close(pairs, expected)


def test_the_loss_is_the_cross_entropy_of_what_follows(tiny):
    torch.manual_seed(0)
    affinity, frequency = torch.randn(4, 4), torch.tensor([1.0, 2, 3, 4])
    pairs = torch.tensor([[9.0, 2, 0, 1], [0, 9, 0, 0], [1, 0, 0, 0], [0, 0, 3, 0]])
    total = 0.0
    for row, column, weight in ((0, 1, 2), (0, 3, 1), (2, 0, 1), (3, 2, 3)):
        likely = frequency * affinity[row].exp()
        total -= weight * (likely[column] / (likely.sum() - likely[row])).log()
    torch.testing.assert_close(pair_loss(affinity, pairs, frequency), total / 7)
    assert pair_loss(affinity, torch.zeros(4, 4), frequency) == 0


def test_affinities_that_are_right_give_the_least_loss():
    pairs = torch.tensor([[0.0, 3, 1], [2, 0, 2], [1, 0, 0]])
    frequency = pairs.sum(0) + 1
    best = (pairs / frequency).log().clamp(min=-30)
    assert pair_loss(best, pairs, frequency) < pair_loss(torch.zeros(3, 3), pairs, frequency)
    assert pair_loss(best, pairs, frequency) < pair_loss(best.flip(1), pairs, frequency)


def test_a_draw_holds_what_follows(monkeypatch):
    monkeypatch.setattr(items, "ITEMS", 4)
    pairs = sp.csr_array(sp.coo_array(([1.0] * 90, (np.arange(90), np.arange(90) + 10)), shape=(100, 100)))
    for seed in range(20):
        drawn = items.draw(pairs, np.random.default_rng(seed))
        first = np.random.default_rng(seed).permutation(100)[:2]
        assert set(drawn) == set(first) | {item + 10 for item in first if item < 90}


@pytest.mark.parametrize("pieces", [5, 43])
def test_items_are_learned_and_resumed(tiny, tmp_path, monkeypatch, pieces):
    monkeypatch.setattr(items, "PIECES", pieces)

    def run(folder, until=None):
        scorer, losses = tiny.scorer(layers=3), []
        scorer.requires_grad_(True)

        def log(values, step):
            if step == until:
                raise KeyboardInterrupt
            losses.append(values["loss"])

        schedule = Schedule(1e-2, 0.01, 0.1, 10, None, 5)
        with scorer.cut(2):
            learn_items(scorer, tiny.lists, tiny.prompts, 30, schedule, Checkpoint("t", {}, folder), log, 0)
        return scorer, losses

    whole, losses = run(tmp_path / "whole")
    assert losses[-1] < 0.9 * losses[0]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", until=13)
    resumed, rest = run(tmp_path / "cut")
    assert len(rest) == 20
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, whole.get_parameter(name))


def test_items_do_not_see_each_other(tiny, tmp_path, monkeypatch):
    """The states that are compared are those of each piece alone behind the prefix."""
    scorer, seen = tiny.scorer(layers=2), []
    monkeypatch.setattr(items, "unit_rms", lambda states: seen.append(states) or states)
    monkeypatch.setattr(items, "PIECES", 6)
    prompts = replace(tiny.prompts, history=[[5 + item, 4] for item in range(8)])
    scorer.requires_grad_(True)
    learn_items(
        scorer, tiny.lists, prompts, 1, Schedule(0.0, 0.0, 0.1, 1, None, 1), Checkpoint("t", {}, tmp_path),
        lambda values, step: None, 0,
    )  # fmt: skip
    order = items.draw(followers(tiny.lists, 8), np.random.default_rng(0))
    alone = [[1, 2, *piece] for pieces in (prompts.candidate, prompts.history) for piece in (pieces[i] for i in order)]
    states: list[torch.Tensor] = []
    handle = scorer.layers[-1].register_forward_hook(lambda module, given, output: states.append(output))
    scorer.body(torch.tensor(alone), use_cache=False)
    handle.remove()
    torch.testing.assert_close(seen[0], states[0][:, -1])
