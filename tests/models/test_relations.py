"""What packed rows say of attention, against transformers' own attention on each prompt alone."""

import numpy as np
import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.models import relations
from fisher_ld.models.relations import HEADS, Places, keeping, log_softmax


@pytest.fixture
def scorer(tiny):
    return tiny.scorer(layers=3).double()


@pytest.fixture
def packed(tiny, scorer):
    """The batch of two users' windows in one packed row each, and what its attention was given."""
    batch = pack(tiny.lists, tiny.lists.windows()[:2], tiny.prompts, scorer.context())
    return batch, scorer(batch, with_attention=True)


def alone(scorer, tiny, example):
    """Attention of every layer and head on one prompt, from its decision token, (L, H, P), by transformers."""
    ids = torch.tensor([tiny.prompts.example(tiny.lists, example)])
    scorer.model.set_attn_implementation("eager")
    found = scorer.body(input_ids=ids, use_cache=False, output_attentions=True).attentions
    scorer.model.set_attn_implementation("sdpa")
    return torch.stack([layer[0, :, -1] for layer in found])


def without_first(attention):
    """The first token is left out, and the rest is a distribution again."""
    rest = attention[..., 1:]
    return rest / rest.sum(-1, keepdim=True)


def test_attention_maps_are_those_of_each_prompt_alone(tiny, scorer, packed):
    batch, scored = packed
    maps = relations.attention_maps(scored.attended, Places.of(batch))
    for number, example in enumerate(batch.examples.tolist()):
        expected = without_first(alone(scorer, tiny, example)).square().mean(1)  # (L, P - 1)
        length = expected.shape[-1] + 1
        torch.testing.assert_close(maps[number, :, 1:length].double(), expected, rtol=1e-5, atol=1e-7)
        assert maps[number, :, 0].eq(0).all() and maps[number, :, length:].eq(0).all()


def test_the_divergence_from_uniform_attention_is_that_of_each_prompt_alone(tiny, scorer, packed):
    batch, scored = packed
    found = relations.attention_divergence(scored.attended, Places.of(batch))
    mean = without_first(alone(scorer, tiny, int(batch.examples[0]))).mean(1)  # (L, P - 1)
    expected = (mean * (mean * mean.shape[-1]).log()).sum(-1)
    assert found[0].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_relations_join_the_heads_and_cut_them_anew(scorer, packed):
    """Of one candidate by hand: 4 heads of 8 are cut into 4 of 8, 2 value heads of 8 into 4 of 4."""
    batch, scored = packed
    places = Places.of(batch)
    found = relations.relations(scored.attended[-1], places)
    assert found.shape[1:3] == (2, HEADS)
    (row, column), number = batch.decision[-1].tolist(), len(batch.decision) - 1
    last = scored.attended[-1]
    values = last.value[row].transpose(0, 1).flatten(1)  # (T, 16)
    columns = places.columns[number][places.present[number]]
    own = values[column].view(HEADS, 4)
    expected = torch.einsum("rd,trd->rt", own, values[columns].view(-1, HEADS, 4)) / 2
    torch.testing.assert_close(found[number, 1][:, places.present[number]].double(), expected, rtol=1e-5, atol=1e-6)


def test_scores_are_those_before_the_softmax(scorer, packed):
    """With as many relation heads as heads, their softmax is the attention."""
    batch, scored = packed
    places = Places.of(batch)
    log_p = log_softmax(relations.attention_scores(scored.attended, places)[:, 0], places.present)
    own = log_p.exp() * places.present[:, None]
    maps = relations.attention_maps(scored.attended[:1], places)[:, 0]
    torch.testing.assert_close(own.square().mean(1), maps, rtol=1e-4, atol=1e-7)


def test_the_model_is_as_it_was_when_nothing_is_kept_any_more(scorer):
    before = scorer.model.config._attn_implementation
    with keeping(scorer.model) as kept:
        scorer.body(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    assert [one.key.shape for one in kept] == [(1, 2, 3, 8)] * 3
    assert scorer.model.config._attn_implementation == before


def test_prompts_with_a_row_each_have_their_places_at_either_side():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    places = Places.alone(torch.tensor([2, 3]), mask)
    assert places.present.tolist() == [[False, True, True, False], [False, False, True, True]]
    assert np.array_equal(places.columns, [[0, 1, 2, 3]] * 2)
