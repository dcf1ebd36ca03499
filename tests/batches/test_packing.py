"""Packed scoring against one prompt at a time: logits, hidden states and gradients, in float64."""

from itertools import chain, pairwise
from operator import attrgetter

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import MULTIPLE, by_length, in_pieces, longest_first, pack, row_tokens, step_plan
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.errors import UserError
from fisher_ld.models.scorer import Scorer

SHAPE = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_labels": 2}
HEADS = {"num_attention_heads": 4, "pad_token_id": 0, "max_position_embeddings": 64}
CONFIGS = {
    "llama-gqa": LlamaConfig(**SHAPE, **HEADS, num_key_value_heads=2),
    "llama-tied": LlamaConfig(**SHAPE, **HEADS, num_key_value_heads=4, tie_word_embeddings=True),
    "qwen2-biases": Qwen2Config(**SHAPE, **HEADS, num_key_value_heads=1),
    "qwen3-norms": Qwen3Config(**SHAPE, **HEADS, num_key_value_heads=2, head_dim=4),
    "mistral": MistralConfig(**SHAPE, **HEADS, num_key_value_heads=2, sliding_window=None),
    "gemma": GemmaConfig(**SHAPE, **HEADS, num_key_value_heads=1, head_dim=4),
    "gemma3": Gemma3TextConfig(**SHAPE, **HEADS, num_key_value_heads=1, head_dim=4, sliding_window=64),
    "gpt2": GPT2Config(vocab_size=50, n_embd=16, n_layer=3, n_head=4, n_positions=64, num_labels=2, pad_token_id=0),
}
CANDIDATES = {"one": [[4]], "many": [[1, 2, 3], [5, 0, 4, 2]], "ragged": [[2], [0, 1, 2, 3, 4, 5], [3, 3]]}


def world(candidates):
    rng = np.random.default_rng(0)
    count = len(candidates)
    lists = Lists(
        user=np.array([0, 0, 1][:count]),
        start=np.array([1, 1, 0][:count]),
        position=np.array([3, 5, 2][:count]),
        positive=np.zeros(count, int),
        candidates=[np.array(c) for c in candidates],
        offsets=np.concatenate([[0], np.cumsum([len(c) for c in candidates])]),
        sequences=[rng.integers(0, 6, 7), rng.integers(0, 6, 4)],
    )
    pieces = [[int(t) for t in rng.integers(1, 50, 1 + item % 4)] for item in range(12)]
    return lists, Prompts([7, 8], pieces[:6], pieces[6:])


@pytest.mark.parametrize("candidates", CANDIDATES.values(), ids=CANDIDATES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("attention", ["sdpa", "strips"])
def test_packed_is_one_by_one(attention, config, candidates, float64_norms):
    torch.manual_seed(0)
    scorer = Scorer(AutoModelForSequenceClassification.from_config(config, dtype=torch.float64).eval())
    lists, prompts = world(candidates)
    batch = pack(lists, lists.windows(), prompts, 64)

    scorer.model.set_attn_implementation(attention)
    with torch.no_grad():
        scored = scorer(batch).logits
    logits, states = attrgetter("logits", "states")(scorer(batch, with_states=True))
    scorer.model.set_attn_implementation("sdpa")
    weight = torch.linspace(-1, 2, len(logits), dtype=torch.float64)
    parameters = [p for p in scorer.parameters() if p.requires_grad]
    packed_gradient = torch.autograd.grad((logits * weight).sum(), parameters)

    alone, alone_states = torch.zeros_like(logits), torch.zeros_like(states)
    for place, example in enumerate(batch.examples.tolist()):
        ids = torch.tensor([prompts.example(lists, example)])
        captured = []
        hooks = [
            layer.register_forward_hook(lambda m, i, o, kept=captured: kept.append(o[0] if isinstance(o, tuple) else o))
            for layer in scorer.layers
        ]
        no, yes = scorer.model.score(scorer.body(input_ids=ids).last_hidden_state[0, -1])
        for hook in hooks:
            hook.remove()
        alone[place] = yes - no
        alone_states[place] = torch.stack([hidden[0, -1] for hidden in captured])
    gradient = torch.autograd.grad((alone * weight).sum(), parameters)

    torch.testing.assert_close(scored, alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(logits, alone, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(states, alone_states, rtol=1e-9, atol=1e-9)
    for ours, reference in zip(packed_gradient, gradient, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-9, atol=1e-9)


def test_labels_mark_the_positive():
    lists, prompts = world(CANDIDATES["ragged"])
    lists.positive[:] = [0, 4, 1]
    batch = pack(lists, lists.windows(), prompts, 64)
    assert batch.labels.tolist() == lists.labels()[batch.examples].tolist()
    assert batch.labels.sum() == 3


def test_labels_that_are_not_to_be_known_are_nan():
    lists, prompts = world(CANDIDATES["ragged"])
    lists.positive[:] = [0, -1, 1]
    batch = pack(lists, lists.windows(), prompts, 64)
    np.testing.assert_array_equal(batch.labels.numpy(), lists.labels()[batch.examples])
    assert batch.labels.isnan().sum() == 6


def test_every_candidate_knows_its_list():
    lists, prompts = world(CANDIDATES["ragged"])
    windows = lists.windows()
    batch = pack(lists, windows[::-1], prompts, 64)
    numbers = np.concatenate(windows[::-1])  # the order of the examples
    starts = lists.offsets[numbers][batch.list_of]
    ends = lists.offsets[numbers + 1][batch.list_of]
    assert ((starts <= batch.examples.numpy()) & (batch.examples.numpy() < ends)).all()
    assert batch.list_of.tolist() == [0, 0, 1, 2, 2, 2, 2, 2, 2]


def test_rows_are_padded_to_a_length_that_matrix_kernels_like():
    lists, prompts = world(CANDIDATES["one"])
    batch = pack(lists, lists.windows(), prompts, 64)
    assert batch.input_ids.shape[1] % MULTIPLE == 0 and batch.tokens < batch.input_ids.numel()
    assert batch.mask.any(-1).all()  # no empty softmax


def test_prompt_beyond_the_context_is_refused():
    lists, prompts = world(CANDIDATES["many"])
    with pytest.raises(UserError, match=r"a prompt has \d+ tokens, but the model's context ends at 5"):
        pack(lists, lists.windows(), prompts, 5)


def test_the_longest_prompt_is_known_before_any_is_packed():
    lists, prompts = world(CANDIDATES["ragged"])
    lengths = [len(prompts.example(lists, example)) for example in range(lists.offsets[-1])]
    assert prompts.longest(lists) == max(lengths) > min(lengths)


def test_batches_hold_every_window_once():
    lists, *_ = world(CANDIDATES["ragged"])
    plan = by_length(lists.windows(), np.array([5, 1, 3]), 2, seed=3)
    numbers = sorted(i for batch in plan for window in batch for i in window)
    assert numbers == [0, 1, 2]


def test_windows_of_like_length_share_a_batch():
    windows, length = [np.array([i]) for i in range(8)], np.array([9, 1, 8, 2, 7, 3, 6, 4])
    plan = by_length(windows, length, 2, seed=3)
    assert sorted(sorted(int(length[w[0]]) for w in batch) for batch in plan) == [[1, 2], [3, 4], [6, 7], [8, 9]]


def test_groups_are_of_like_length_and_the_longest_comes_first():
    lists, prompts = long_world()
    groups = longest_first(lists, prompts, 2)
    lengths = [[row_tokens(window, lists, prompts) for window in group] for group in groups]
    flat = [*chain(*lengths)]
    assert flat == sorted(flat, reverse=True) and flat[0] > flat[-1]
    assert [len(group) for group in groups] == [2, 1]
    assert sorted(int(i) for group in groups for window in group for i in window) == [*range(len(lists))]


def long_world():
    """Three users, some lists of each after one start; an item's candidate piece has 1 + item % 4 tokens."""
    rng = np.random.default_rng(1)
    user = np.repeat([0, 1, 2], [7, 2, 1])
    candidates = [rng.integers(0, 8, n) for n in rng.integers(1, 9, len(user))]
    lists = Lists(
        user=user,
        start=np.zeros_like(user),
        position=np.array([1, 2, 3, 3, 3, 4, 5, 1, 2, 1]),
        positive=np.array([int(rng.integers(len(c))) for c in candidates]),
        candidates=candidates,
        offsets=np.concatenate([[0], np.cumsum([len(c) for c in candidates])]),
        sequences=[rng.integers(0, 8, 6)] * 3,
    )
    pieces = [[9] * (1 + item % 4) for item in range(8)]
    return lists, Prompts([7, 8], pieces, pieces)


def tokens(items, prompts):
    return sum(len(prompts.candidate[item]) for item in items)


@pytest.mark.parametrize("largest", [1, 12, 20, 33, 10_000])
def test_long_windows_are_cut_between_lists(largest):
    lists, prompts = long_world()
    windows = [window for group in longest_first(lists, prompts, 3, largest) for window in group]
    assert sorted(int(i) for window in windows for i in window) == [*range(len(lists))]
    cost = [sum(tokens(lists.candidates[i], prompts) for i in window) for window in windows]
    assert all(c <= largest or len(w) == 1 for c, w in zip(cost, windows, strict=True))
    assert all(len(set(lists.user[window])) == 1 for window in windows)
    if largest == 10_000:
        assert len(windows) == 3
    for before, after in pairwise(sorted(windows, key=lambda window: int(window[0]))):  # no cut that was not needed
        if lists.user[before[0]] == lists.user[after[0]]:
            together = sum(tokens(lists.candidates[i], prompts) for i in [*before, after[0]])
            assert together > largest


@pytest.mark.parametrize("largest", [1, 5, 8, 10_000])
def test_pieces_hold_the_same_prompts_in_the_same_order(largest):
    lists, prompts = long_world()
    pieces = in_pieces(lists, prompts, largest)
    assert pieces.offsets[-1] == lists.offsets[-1]
    for example in range(lists.offsets[-1]):
        assert prompts.example(pieces, example) == prompts.example(lists, example)
    assert all(tokens(c, prompts) <= largest or len(c) == 1 for c in pieces.candidates)
    assert np.isnan(pieces.labels()).all()
    assert (len(pieces) == len(lists)) == (largest == 10_000)


def test_a_plan_goes_on_for_as_many_epochs_as_its_steps_take():
    lists, prompts = world(CANDIDATES["ragged"])
    plan = step_plan(lists, lists.windows(), prompts, 1, steps=5, seed=3)
    assert len(plan) == 5
    epoch = len(lists.windows())
    assert sorted(int(b[0][0]) for b in plan[:epoch]) == sorted(int(w[0]) for w in lists.windows())


def test_a_plan_holds_the_given_windows_alone():
    lists, prompts = world(CANDIDATES["ragged"])
    plan = step_plan(lists, lists.windows()[1:], prompts, 1, steps=4, seed=3)
    assert {int(i) for batch in plan for window in batch for i in window} == {2}
    with pytest.raises(ValueError, match=r"expected windows to plan 4 steps of, got none"):
        step_plan(lists, [], prompts, 1, steps=4, seed=3)
