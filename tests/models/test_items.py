from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from fisher_ld.batches.lists import take
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.models import items
from fisher_ld.models.items import DECAY, draw, follow_counts, follow_loss, learn_items
from fisher_ld.training.loop import Schedule


def test_follow_counts_are_from_histories_to_positives(tiny):
    # user u likes u, u + 1, u + 2, and then u + 3, the one list's positive
    expected = torch.zeros(8, 8)
    for user in range(4):
        for between, earlier in enumerate((user + 2, user + 1, user)):
            expected[earlier, user + 3] += DECAY**between
    torch.testing.assert_close(torch.from_numpy(follow_counts(tiny.lists, 8).toarray()), expected)
    some = follow_counts(take(tiny.lists, np.array([0, 2])), 8)
    assert set(np.flatnonzero(some.sum(axis=0))) == {3, 5}


def test_the_loss_is_the_cross_entropy_of_what_follows():
    torch.manual_seed(0)
    affinity, frequency = torch.randn(4, 4), torch.tensor([1.0, 2, 3, 4])
    counts = torch.tensor([[9.0, 2, 0, 1], [0, 9, 0, 0], [1, 0, 0, 0], [0, 0, 3, 0]])
    total = 0.0
    for row, column, weight in ((0, 1, 2), (0, 3, 1), (2, 0, 1), (3, 2, 3)):
        likely = frequency * affinity[row].exp()
        total -= weight * (likely[column] / (likely.sum() - likely[row])).log()
    torch.testing.assert_close(follow_loss(affinity, counts, frequency), total / 7)


def test_the_loss_is_least_where_affinities_are_right():
    """At log(counts / frequency), up to a constant of each row: the gradient of the convex loss is zero there."""
    counts = torch.tensor([[0.0, 3, 1], [2, 0, 2], [1, 4, 0]])
    frequency = counts.sum(0) + 1
    right = (counts.clamp(min=1) / frequency).log().requires_grad_()
    follow_loss(right, counts, frequency).backward()
    torch.testing.assert_close(right.grad, torch.zeros(3, 3))
    wrong = right.detach().T.clone().requires_grad_()
    follow_loss(wrong, counts, frequency).backward()
    assert wrong.grad.abs().max() > 0.01


def test_a_draw_holds_followers_by_their_counts(monkeypatch):
    monkeypatch.setattr(items, "ITEMS", 4)
    earlier, later = np.repeat(np.arange(90), 2), np.stack([np.arange(90) + 100, np.arange(90) + 200], 1).ravel()
    counts = sp.csr_array((np.tile([999.0, 1.0], 90), (earlier, later)), shape=(300, 300))
    drawn = [draw(counts, np.random.default_rng(seed)) for seed in range(50)]
    assert all(len(two) == 4 and two[1] < 90 and two[2] >= 100 for two in drawn)
    assert all(follower % 100 in two[:2] for two in drawn for follower in two[2:])
    assert np.mean([follower < 200 for two in drawn for follower in two[2:]]) > 0.9
    assert len({tuple(two) for two in drawn}) == 50


def test_items_are_learned_and_resumed(tiny, tmp_path):
    def run(folder, losses, until=None):
        scorer = tiny.scorer(layers=3)
        scorer.requires_grad_(True)

        def log(values, step):
            if step == until:
                raise KeyboardInterrupt
            losses.append((values["loss"], values["tokens_per_second"]))

        schedule = Schedule(1e-2, 0.01, 0.1, 10, None, 5)
        with scorer.cut(2):
            learn_items(scorer, tiny.lists, tiny.prompts, 30, schedule, Checkpoint("t", {}, folder), log, 0)
        return scorer

    losses, begun, rest = [], [], []
    whole = run(tmp_path / "whole", losses)
    assert losses[-1][0] < 0.9 * losses[0][0]
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", begun, until=13)
    resumed = run(tmp_path / "cut", rest)
    assert len(rest) == 30 and len(set(rest) & set(begun)) == 10  # up to the checkpoint as it was, rates included
    for name, parameter in resumed.named_parameters():
        torch.testing.assert_close(parameter, whole.get_parameter(name))


@pytest.mark.parametrize("tokens", [15, 512])
def test_what_is_compared(tiny, tmp_path, monkeypatch, tokens):
    """States of each piece alone behind the prefix, whatever shares its row; a history's in the rows, a candidate's in
    the columns of the affinities, with the counts and frequencies of the items drawn."""
    scorer, seen, given = tiny.scorer(layers=2), [], []
    monkeypatch.setattr(items, "TOKENS", tokens)
    monkeypatch.setattr(items, "ITEMS", 4)
    monkeypatch.setattr(items, "unit_rms", lambda states: seen.append(states) or states)
    monkeypatch.setattr(items, "follow_loss", lambda *arguments: given.append(arguments) or follow_loss(*arguments))
    prompts = replace(tiny.prompts, history=[[13, 4]] * 8)
    scorer.requires_grad_(True)
    learn_items(
        scorer, tiny.lists, prompts, 1, Schedule(0.0, 0.0, 0.1, 1, None, 1), Checkpoint("t", {}, tmp_path),
        lambda values, step: None, 0,
    )  # fmt: skip
    counts = follow_counts(tiny.lists, 8)
    drawn = draw(counts, np.random.default_rng(0))
    assert 2 < len(drawn) < 8
    alone = [[1, 2, *piece] for pieces in (prompts.candidate, prompts.history) for piece in (pieces[i] for i in drawn)]
    states: list[torch.Tensor] = []
    handle = scorer.layers[-1].register_forward_hook(lambda module, given, output: states.append(output))
    scorer.body(torch.tensor(alone), use_cache=False)
    handle.remove()
    torch.testing.assert_close(seen[0], states[0][:, -1])

    affinity, followed, frequency = given[0]
    torch.testing.assert_close(affinity, affinity[:1].expand_as(affinity))  # all histories look alike here
    assert affinity[0].unique().numel() == len(drawn)
    np.testing.assert_array_equal(followed, counts.toarray()[np.ix_(drawn, drawn)])
    np.testing.assert_array_equal(frequency, counts.toarray().sum(0)[drawn] + 1)


def test_lists_without_a_history_teach_nothing_of_items(tiny, tmp_path):
    first = replace(tiny.lists, position=np.zeros(4, int))
    with pytest.raises(UserError, match=r"item_steps: expected training lists with a history.*set it to 0"):
        learn_items(
            tiny.scorer(), first, tiny.prompts, 1, Schedule(0.1, 0.0, 0.1, 1, None, 1), Checkpoint("t", {}, tmp_path),
            lambda values, step: None, 0,
        )  # fmt: skip
