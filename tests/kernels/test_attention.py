from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForSequenceClassification, LlamaConfig

from fisher_ld.core.errors import UserError
from fisher_ld.kernels import attention
from fisher_ld.kernels.attention import spans, strip_attention

ROWS, HEADS, GROUPS, WIDTH = 3, 6, 2, 8
MODULE = SimpleNamespace(is_causal=True)


def inputs(queries: int, tokens: int, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    shapes = (HEADS, queries), (GROUPS, tokens), (GROUPS, tokens)
    return [
        torch.randn(ROWS, heads, length, WIDTH, dtype=torch.float64, generator=generator)
        .to(dtype)
        .transpose(1, 2)  # as a projection leaves them: a token's heads side by side
        .contiguous()
        .transpose(1, 2)
        .requires_grad_()
        for heads, length in shapes
    ]


def sparse(queries: int, tokens: int) -> torch.Tensor:
    """Each query sees the first key and some others up to its own."""
    seen = torch.rand(ROWS, 1, queries, tokens, generator=torch.Generator().manual_seed(1)) < 0.4
    seen[..., 0] = True
    return seen.tril(tokens - queries)


def reference(query, key, value, mask):
    key, value = (part.repeat_interleave(HEADS // GROUPS, 1) for part in (key, value))
    mixed = F.scaled_dot_product_attention(query, key, value, mask, is_causal=mask is None, scale=0.3)
    return mixed.transpose(1, 2)


@pytest.mark.parametrize("length", [1, 16, 100, 513])
def test_strips_follow_each_other_to_the_end(length):
    rows = spans(length)
    assert rows[0][0] == 0 and rows[-1][1] == length
    assert {end - first for first, end in rows} <= set(range(1, 65)) and len(rows) == -(-length // 64)
    assert len(spans(length, rows=length)) == 1
    assert all(end == start for (_, end), (start, _) in pairwise(rows))


@pytest.mark.parametrize("kept", [0, 1000], ids=["weights computed again", "weights kept"])
@pytest.mark.parametrize(
    "queries, tokens, mask",
    [
        (9, 9, None),
        (100, 100, None),
        (100, 100, sparse(100, 100)),
        (65, 65, sparse(65, 65)[:1]),
        (5, 100, sparse(5, 100)),
    ],
    ids=["one strip", "causal", "masked", "one mask for all rows", "few queries"],
)
def test_outputs_and_gradients_are_torchs(queries, tokens, mask, kept, monkeypatch):
    monkeypatch.setattr(attention, "KEPT", kept)
    parts = inputs(queries, tokens)
    found, expected = strip_attention(MODULE, *parts, mask, scaling=0.3)[0], reference(*parts, mask)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    weight = torch.randn(found.shape, dtype=torch.float64)
    gradients = (torch.autograd.grad((out * weight).sum(), parts) for out in (found, expected))
    for ours, torchs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-10)
    with torch.inference_mode():
        assert strip_attention(MODULE, *parts, mask, scaling=0.3)[0].equal(found)


def test_bf16_is_as_close_as_bf16_is():
    mask = sparse(300, 300)
    parts = inputs(300, 300, torch.bfloat16)
    exact = [part.detach().double().requires_grad_() for part in parts]
    found, expected = strip_attention(MODULE, *parts, mask, scaling=0.3)[0], reference(*exact, mask)
    torch.testing.assert_close(found.double(), expected, rtol=0.02, atol=0.02)
    gradients = torch.autograd.grad(found.sum(), parts), torch.autograd.grad(expected.sum(), exact)
    for ours, torchs in zip(*gradients, strict=True):
        assert ours.dtype == torch.bfloat16
        torch.testing.assert_close(ours.double(), torchs, rtol=0.03, atol=0.03)


def test_a_query_that_sees_nothing_spoils_no_other():
    mask = sparse(70, 70)
    mask[1, :, :5] = False  # as where a prompt is padded on the left
    mask[1, :, 5:, :5] = False
    mask[1, :, 5:, 5] = True
    parts = inputs(70, 70)
    outputs = strip_attention(MODULE, *parts, mask, scaling=0.3)[0], reference(*parts, mask)
    torch.testing.assert_close(*(found[:, 5:] for found in outputs), rtol=1e-10, atol=1e-10)
    for ours, torchs in zip(*(torch.autograd.grad(found[:, 5:].sum(), parts) for found in outputs), strict=True):
        torch.testing.assert_close(ours, torchs, rtol=1e-10, atol=1e-10)


def test_values_may_have_another_width_and_only_some_inputs_a_gradient():
    query, key, _ = inputs(70, 70)
    value = torch.randn(ROWS, GROUPS, 70, 5, dtype=torch.float64)
    found, expected = (
        way(query.detach(), key, value) for way in (lambda *p: strip_attention(MODULE, *p, None)[0], plainly)
    )
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    gradients = (torch.autograd.grad(out.square().sum(), key)[0] for out in (found, expected))
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-10)


def plainly(query, key, value):
    """Causal, scaled by the width of a head."""
    key, value = (part.repeat_interleave(HEADS // GROUPS, 1) for part in (key, value))
    scores = query @ key.mT / WIDTH**0.5
    hidden = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize("queries", [1, 4])
def test_the_next_tokens_see_all_before_them(queries):
    parts = inputs(queries, 9)
    seen = torch.ones(1, 1, queries, 9, dtype=torch.bool).tril(9 - queries)
    assert strip_attention(MODULE, *parts, None)[0].equal(strip_attention(MODULE, *parts, seen)[0])


def test_torchs_kernel_is_taken_where_it_is_as_fast_and_with_dropout(monkeypatch):
    monkeypatch.setattr(attention, "AMX", True)
    monkeypatch.setattr(attention._Strips, "apply", lambda *given: pytest.fail("own kernel"))
    for mask in (None, sparse(70, 70)):
        parts = inputs(70, 70, torch.bfloat16)
        exact = reference(*(part.detach().double() for part in parts), mask)
        with torch.no_grad():
            found = strip_attention(MODULE, *parts, mask, scaling=0.3)[0]
        torch.testing.assert_close(found.double(), exact, rtol=0.02, atol=0.02)
    monkeypatch.setattr(attention, "LONG", 69)
    parts = inputs(70, 70, torch.float32)
    found, expected = strip_attention(MODULE, *parts, None, scaling=0.3)[0], reference(*parts, None)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    dropped = strip_attention(MODULE, *inputs(70, 70), None, dropout=0.5)[0]
    assert dropped.shape == (ROWS, 70, HEADS, WIDTH) and dropped[:, 0].eq(0).any()


@pytest.mark.parametrize(
    "module, options, said",
    [
        (MODULE, {"softcap": 30.0}, "softcap"),
        (MODULE, {"s_aux": torch.ones(1)}, "s_aux"),
        (MODULE, {"position_bias": torch.ones(1)}, "position_bias"),
        (MODULE, {"is_causal": False}, "sight of later tokens"),
        (SimpleNamespace(is_causal=False), {}, "sight of later tokens"),
    ],
)
def test_another_attention_is_refused(module, options, said):
    with pytest.raises(UserError, match=f"SimpleNamespace needs {said}"):
        strip_attention(module, *inputs(4, 4), None, **options)


def test_no_second_derivative():
    parts = inputs(4, 4)
    (gradient,) = torch.autograd.grad(
        strip_attention(MODULE, *parts, None)[0].square().sum(), parts[0], create_graph=True
    )
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("own, within", [("sdpa", "strips"), ("eager", "eager")])
def test_torchs_attention_is_replaced_for_a_while(own, within):
    config = LlamaConfig(vocab_size=9, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    config._attn_implementation = own
    model = AutoModelForSequenceClassification.from_config(config)
    with pytest.raises(KeyError), attention.by_strips(model):
        assert (
            model.config._attn_implementation == model.model.layers[0].self_attn.config._attn_implementation == within
        )
        raise KeyError
    assert model.config._attn_implementation == own
