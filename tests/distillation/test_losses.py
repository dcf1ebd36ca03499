import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fisher_ld.batches.packing import pack
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.losses import (
    TOP,
    attention_map_loss,
    attention_score_loss,
    cosine_losses,
    l2,
    label_loss,
    layer_losses,
    list_output_loss,
    output_loss,
    relation_loss,
    ridge_maps,
    top_ranked_loss,
)
from fisher_ld.distillation.signals import SIGNALS, StateStatistics, asked
from fisher_ld.training.losses import list_cross_entropy, ranking_loss


def test_output_loss_is_the_kl_of_two_bernoulli_at_a_temperature():
    p, q = 1 / (1 + math.exp(-0.5)), 1 / (1 + math.exp(0.25))  # logits 2 and -1 at T = 4
    expected = 16 * (p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q)))
    assert output_loss(torch.tensor([2.0]), torch.tensor([-1.0]), 4.0).item() == pytest.approx(expected, rel=1e-5)
    assert output_loss(torch.tensor([3.0]), torch.tensor([3.0]), 4.0).item() == pytest.approx(0)


def test_layer_losses_are_a_share_of_the_constant_predictors():
    states = torch.randn(500, 3, 8) * 7 + 5
    targets = StateStatistics.of(states).standardise(states)
    assert layer_losses(targets, targets).tolist() == [0] * 3
    assert layer_losses(targets, torch.zeros_like(targets)).tolist() == pytest.approx([1] * 3, rel=1e-4)


def test_a_channel_that_never_changes_counts_for_nothing():
    states = torch.ones(5, 1, 2)
    assert StateStatistics.of(states).standardise(states).abs().max() == 0


def test_ridge_maps_are_the_least_squares_answer_where_it_is_exact():
    states = torch.randn(200, 2, 3)
    maps, offsets = torch.randn(2, 5, 3), torch.randn(2, 5)
    targets = torch.einsum("nps,pts->npt", states[:, [1, 0]], maps) + offsets
    found, constant = ridge_maps(states, [1, 0], targets, ridge=1e-9)
    torch.testing.assert_close(found, maps, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(constant, offsets, rtol=1e-3, atol=1e-3)
    shrunk, _ = ridge_maps(states, [1, 0], targets, ridge=1e3)
    assert shrunk.norm() < 0.1 * maps.norm()


def test_ridge_maps_do_not_read_the_small_differences_of_states_that_are_nearly_constant():
    states, targets = 1 + 1e-3 * torch.randn(200, 1, 3), torch.randn(200, 1, 4)
    maps, constant = ridge_maps(states, [0], targets)
    assert maps.abs().max() < 0.1
    torch.testing.assert_close((maps @ states[0, 0])[0] + constant[0], targets.mean(0)[0], rtol=0, atol=1e-3)


def test_ranking_loss_of_a_constant_scorer():
    labels = torch.tensor([0.0, 1, 0, 0, 1, 0, 0, 0, 0, 1])
    lists = torch.tensor([0, 0, 0, 0, 1, 1, 1, 1, 2, 2])
    _, parts = ranking_loss(torch.zeros(10), labels, lists, 0.5)
    assert parts["bce"] == pytest.approx(math.log(2))
    assert parts["list_softmax"] == pytest.approx((2 * math.log(4) + math.log(2)) / 3)


def test_the_softmax_of_a_list_is_torchs_whatever_the_lengths_and_the_size_of_logits():
    z, lists = torch.tensor([500.0, -3, 2, 1000, 999, 1]), torch.tensor([7, 7, 7, 2, 2, 2])
    target = torch.tensor([0.0, 0, 1, 0, 1, 0])
    expected = (F.cross_entropy(z[None, :3], torch.tensor([2])) + F.cross_entropy(z[None, 3:], torch.tensor([1]))) / 2
    torch.testing.assert_close(list_cross_entropy(z, target, lists), expected)


Z = torch.tensor([0.5, -1.0, 2.0, 0.3, 1.5, -0.7, 0.0, 3.0, -2.0])
LABELS = torch.tensor([0.0, 1, 0, 1, 0, 0, 0, 0, 1])


LIST_OF = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 2])


def batch_of(labels):
    return SimpleNamespace(labels=labels, list_of=LIST_OF)


@pytest.mark.parametrize("list_weight", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("hidden", [[3, 4, 5], [3, 4, 5, 6, 7, 8]], ids=["one list", "two lists"])
def test_only_lists_whose_labels_are_known_count(list_weight, hidden):
    labels, alone = LABELS.clone(), [i for i in range(9) if i not in hidden]
    labels[hidden] = torch.nan
    found = label_loss(Z, batch_of(labels), list_weight)
    assert found is not None
    torch.testing.assert_close(found, ranking_loss(Z[alone], LABELS[alone], LIST_OF[alone], list_weight)[0])
    assert abs(found - ranking_loss(Z, LABELS, LIST_OF, list_weight)[0]) > 0.01


def test_with_all_labels_the_loss_is_the_teachers_and_without_any_there_is_none():
    torch.testing.assert_close(label_loss(Z, batch_of(LABELS), 0.5), ranking_loss(Z, LABELS, LIST_OF, 0.5)[0])
    assert label_loss(Z, batch_of(torch.full((9,), torch.nan)), 0.5) is None


def test_a_list_without_labels_moves_nothing():
    z, labels = Z.clone().requires_grad_(), LABELS.clone()
    labels[3:6] = torch.nan
    found = label_loss(z, batch_of(labels), 0.5)
    assert found is not None
    found.backward()
    assert z.grad is not None
    assert z.grad[3:6].tolist() == [0, 0, 0] and z.grad[[0, 1, 2, 6, 7, 8]].all()


def test_l2_is_the_mean_of_all_squares():
    assert l2([torch.tensor([1.0, 2.0]), torch.tensor([[4.0]])]).item() == 7


def test_layer_maps():
    assert layer_map("all", 6, 2, "random") == [(1, 1), (2, 1), (3, 1), (4, 2), (5, 2), (6, 2)]
    assert layer_map("spaced", 6, 2, "random") == [(3, 1), (6, 2)]
    assert layer_map("last", 6, 2, "random") == [(5, 1), (6, 2)]
    assert layer_map("fisher", 6, 2, "random", [0.1, 0.5, 0.1, 0.1, 0.1, 0.1]) == [(2, 1), (4, 2)]
    with pytest.raises(ValueError, match="expected the Fisher mass of 6 layers"):
        layer_map("fisher", 6, 2, "random")


def test_a_student_of_the_first_layers_answers_for_them_and_its_last_for_those_above():
    assert layer_map("all", 5, 2, "first") == [(1, 1), (2, 2), (3, 2), (4, 2), (5, 2)]
    assert layer_map("fisher", 5, 2, "first", [0.1, 0.1, 0.1, 0.5, 0.2]) == [(1, 1), (4, 2)]


def test_list_output_loss_is_the_kl_of_two_softmaxes_at_a_temperature():
    """Two lists of unlike lengths, in float64 by torch's own KL."""
    teacher, student = torch.randn(5).double(), torch.randn(5).double()
    lists = torch.tensor([4, 4, 9, 9, 9])
    expected = [
        F.kl_div((student[part] / 2).log_softmax(0), (teacher[part] / 2).softmax(0), reduction="sum") * 4
        for part in (slice(0, 2), slice(2, 5))
    ]
    assert list_output_loss(teacher, student, lists, 2.0).item() == pytest.approx(float(sum(expected)) / 2, rel=1e-9)
    assert list_output_loss(teacher, teacher + 3, lists, 2.0).item() == pytest.approx(0, abs=1e-12)


def test_top_ranked_loss_takes_the_teachers_best_of_lists_without_label():
    teacher = torch.tensor([0.0, 5, 1, 3, 2, 9, 8]).double()
    student = torch.tensor([0.3, -1, 2, 0.5, 1, 4, 4]).double().requires_grad_()
    labels = torch.tensor([math.nan] * 5 + [1.0, 0.0])
    batch = SimpleNamespace(labels=labels, list_of=torch.tensor([0, 0, 0, 0, 0, 1, 1]))
    weights = [math.exp(-r) for r in range(TOP)]
    best = [1, 3, 4]  # by the teacher
    expected = -sum(w * math.log(1 / (1 + math.exp(-student[i].item()))) for w, i in zip(weights, best, strict=True))
    loss = top_ranked_loss(teacher, student, batch)
    assert loss.item() == pytest.approx(expected / sum(weights), rel=1e-9)
    (gradient,) = torch.autograd.grad(loss, student)
    assert gradient.nonzero()[:, 0].tolist() == best
    known = SimpleNamespace(labels=torch.zeros(7), list_of=batch.list_of)
    assert top_ranked_loss(teacher, student, known) is None


def test_cosine_losses_look_at_directions_alone():
    targets, adapted = torch.tensor([[[1.0, 0]], [[0, 2.0]]]), torch.tensor([[[3.0, 0]], [[1.0, 0]]])
    assert cosine_losses(targets, adapted).tolist() == pytest.approx([0.5])


ATTENTION = {
    "attention": lambda known, scored: attention_map_loss(known, scored, [(1, 1), (2, 2)]),
    "scores": lambda known, scored: attention_score_loss(known, scored, [(1, 1), (2, 2)]),
    "relations": relation_loss,
}


@pytest.mark.parametrize("signal", ATTENTION)
def test_what_attention_says_is_lost_nowhere_and_learned_by_what_makes_it(tiny, signal):
    """Zero where student equals teacher, in packed rows of other neighbours and with places to spare; else a gradient
    for queries and keys of the layers compared, and values where these are."""
    scorer, loss = tiny.scorer().double().requires_grad_(), ATTENTION[signal]
    windows = tiny.lists.windows()
    whole = pack(tiny.lists, windows, tiny.prompts, scorer.context())
    known = SIGNALS[signal].of(asked(scorer, whole, [signal])).detach()[whole.examples.argsort()]
    known = F.pad(known, (0, 4))  # of a longer prompt elsewhere
    batch = pack(tiny.lists, windows[2:], tiny.prompts, scorer.context())
    scored = asked(scorer, batch, [signal])
    assert loss(known[batch.examples], scored).item() == pytest.approx(0, abs=1e-10)
    other = tiny.scorer(seed=3).double().requires_grad_()
    wrong = loss(known[batch.examples], asked(other, batch, [signal]))
    assert wrong.item() > 1e-6
    wrong.backward()
    last = other.layers[-1].self_attn
    learned = {name for name in ("q_proj", "k_proj", "v_proj", "o_proj") if getattr(last, name).weight.grad is not None}
    assert learned == {"q_proj", "k_proj"} | ({"v_proj"} if signal == "relations" else set())
    assert other.model.score.weight.grad is None and other.layers[-1].mlp.up_proj.weight.grad is None


def test_the_squared_distance_of_scores_is_a_share_of_the_teachers_squares(tiny):
    scorer = tiny.scorer().double()
    batch = pack(tiny.lists, tiny.lists.windows()[:1], tiny.prompts, scorer.context())
    scored = asked(scorer, batch, ["scores"])
    known = SIGNALS["scores"].of(scored)
    beyond = 9.0 * (known == 0)  # no token of the prompt stands there
    assert attention_score_loss(4 * known + beyond, scored, [(1, 1), (2, 2)]).item() == pytest.approx(9 / 16, rel=1e-5)


def test_methods_have_maps_of_their_own():
    assert layer_map("middle", 30, 3, "") == [(15, 2)]
    assert layer_map("final", 30, 3, "") == [(30, 3)] and layer_map("final", 2, 3, "") == [(2, 3)]
    assert layer_map("skip", 12, 6, "") == [(2, 1), (4, 2), (6, 3), (8, 4), (10, 5)]  # as in the paper of PKD
    with pytest.raises(UserError, match="at least 2 layers, got 1"):
        layer_map("skip", 12, 1, "")


@pytest.mark.parametrize("kind", ["spaced", "last", "skip", "fisher"])
def test_a_student_deeper_than_its_teacher_is_refused_where_each_layer_needs_one(kind):
    with pytest.raises(UserError, match=f"map {kind} .*at most 2 layers, got 3; distill.layer_map: all"):
        layer_map(kind, 2, 3, "", [0.5, 0.5])
    assert layer_map("all", 2, 3, "") == [(1, 2), (2, 3)]
