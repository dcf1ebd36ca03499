"""Attention by blocks against torch's with a dense mask: on the CPU, where flex_attention is not compiled."""

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.attention import flex_attention

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import pack, sees
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.kernels.flex import FLEX, block_mask, flex, seen_by

HEADS, GROUPS, WIDTH = 6, 2, 8
MODULE = SimpleNamespace(is_causal=True, num_key_value_groups=HEADS // GROUPS)


@pytest.fixture(autouse=True)
def not_compiled(monkeypatch):
    """On the CPU torch refuses gradients, though what it computes there has them."""
    monkeypatch.setattr(flex_attention, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *given: None)


def blocks(batch):
    return block_mask(partial(sees, batch.segment, batch.visible), *batch.segment.shape, batch.segment.device)


@pytest.fixture
def batch(tiny):
    return pack(tiny.lists, tiny.lists.windows(), tiny.prompts, 64)


def inputs(batch):
    torch.manual_seed(0)
    rows, length = batch.segment.shape
    return [torch.randn(rows, heads, length, WIDTH, requires_grad=True) for heads in (HEADS, GROUPS, GROUPS)]


def test_outputs_and_gradients_are_those_of_the_dense_mask(batch):
    parts = inputs(batch)
    found, _ = flex(MODULE, *parts, blocks(batch), scaling=0.3)
    expected = F.scaled_dot_product_attention(*parts, batch.mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    weight = torch.randn(found.shape)
    gradients = [torch.autograd.grad((out * weight).sum(), parts) for out in (found, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-5, atol=1e-5)


def test_bf16_beside_queries_that_rotary_embeddings_left_in_float32(batch):
    query, key, value = (part.detach() for part in inputs(batch))
    found, _ = flex(MODULE, query, key, value.bfloat16(), blocks(batch), scaling=0.3)
    assert found.dtype == torch.bfloat16
    exact = F.scaled_dot_product_attention(query, key, value, batch.mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)


def test_a_scorer_gives_the_same_by_blocks(tiny, batch):
    """Its last layer, which asks for the decision tokens alone, too."""
    found = []
    for way in ("sdpa", FLEX):
        scorer = tiny.scorer(layers=3).requires_grad_()
        scorer.model.set_attn_implementation(way)
        scored = scorer(batch, with_states=True)
        scored.logits.square().sum().backward()
        found.append([scored.logits, scored.states, *(p.grad for p in scorer.parameters())])
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_blocks_that_nobody_sees_are_left_out(tiny):
    """Of forty candidates of 40 tokens each, a block of 128 tokens sees the history and itself."""
    candidates = np.arange(40) % 8
    lists = Lists(*np.array([[0], [0], [2], [0]]), [candidates], np.array([0, 40]), [np.arange(4)])
    long = pack(lists, lists.windows(), tiny.prompts.__class__([1, 2], [[5, 3]] * 8, [[5] * 40] * 8), 4096)
    mask = blocks(long)
    assert 60 < mask.sparsity() < 100
    rows, tokens = torch.zeros(1, 1, dtype=torch.long), torch.arange(mask.shape[-1])[None]
    assert torch.equal(seen_by(mask, rows, tokens)[:, None], long.mask)


def test_with_dropout_torchs_attention_is_taken(batch):
    parts, found = inputs(batch), []
    for mask in (blocks(batch), batch.mask):
        torch.manual_seed(3)
        found.append(flex(MODULE, *parts, mask, scaling=0.3, dropout=0.5)[0])
    assert torch.equal(*found)


def test_prompts_that_stand_alone_have_a_dense_mask(tiny):
    ids, mask = torch.tensor([[1, 2, 5, 3], [1, 2, 0, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    outputs = []
    for way in ("sdpa", FLEX):
        scorer = tiny.scorer()
        scorer.model.set_attn_implementation(way)
        outputs.append(scorer.body(input_ids=ids, attention_mask=mask).last_hidden_state[mask.bool()])
    torch.testing.assert_close(*outputs)


def test_another_attention_is_refused(batch):
    with pytest.raises(UserError, match="SimpleNamespace needs softcap"):
        flex(MODULE, *inputs(batch), blocks(batch), softcap=30.0)


def test_attention_is_by_blocks_on_a_gpu(tiny):
    scorer = tiny.scorer()
    scorer._attend(Compute(torch.device("cuda"), bf16=False))
    assert scorer.layers[0].self_attn.config._attn_implementation == FLEX
