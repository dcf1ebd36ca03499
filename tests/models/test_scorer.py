from operator import attrgetter

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    GraniteConfig,
    MistralConfig,
    OPTConfig,
    PhiConfig,
    Qwen2Config,
)

from fisher_ld.batches.packing import pack
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.models.scorer import Scorer, score_lists

SHAPE = {
    "vocab_size": 32,
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def test_bf16_is_near_float32_and_leaves_stream_and_head_alone(tiny):
    scorer = tiny.scorer()
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
    exact, states = attrgetter("logits", "states")(scorer(batch, with_states=True))
    near, near_states = attrgetter("logits", "states")(
        scorer.on(Compute(torch.device("cpu"), bf16=True))(batch, with_states=True)
    )
    assert near.dtype == near_states.dtype == torch.float32
    assert {p.dtype for p in scorer.parameters()} == {torch.float32}
    assert not torch.equal(states, near_states)
    torch.testing.assert_close(near_states, states, rtol=0, atol=0.02 * states.std().item())
    torch.testing.assert_close(near, exact, rtol=0, atol=0.05 * exact.std().item())
    near.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in scorer.parameters() if p.grad is not None)


def test_only_the_rows_of_the_prompts_are_trained(tiny):
    scorer = tiny.scorer()
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
    embedding = scorer.body.get_input_embeddings()
    whole, before, plain = embedding.weight, embedding.weight.detach().clone(), scorer(batch).logits.detach()
    tokens = tiny.prompts.tokens()
    assert tokens == [0, 1, 2, 3, *range(5, 13)]
    with scorer.only_rows(tiny.prompts):
        z = scorer(batch).logits
        assert torch.equal(z, plain)
        z.sum().backward()
        assert embedding.weight.grad.shape == (len(tokens), 32)
        assert not embedding.weight.grad[0].any()  # padding
        with torch.no_grad():
            embedding.weight -= embedding.weight.grad
        with pytest.raises(IndexError):
            embedding(torch.tensor([4]))
    assert embedding.weight is whole and embedding.padding_idx == 0
    assert (whole != before).any(1).nonzero().flatten().tolist() == tokens[1:]


def test_weights_cast_once_score_as_those_cast_at_every_pass(tiny):
    scorer = tiny.scorer().on(Compute(torch.device("cpu"), bf16=True))
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context())
    before = {name: p.detach().clone() for name, p in scorer.named_parameters()}
    with torch.inference_mode():
        every_pass = scorer(batch).logits
    with scorer.inference():
        assert scorer.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16
        once = scorer(batch).logits
    assert torch.equal(once, every_pass)
    for name, p in scorer.named_parameters():
        assert torch.equal(p, before[name]) and p.dtype == torch.float32
    assert len(score_lists(scorer, tiny.lists, tiny.prompts)) == len(tiny.lists)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PhiConfig(**SHAPE), "a head with a bias"),
        (GraniteConfig(**SHAPE), "no sequence classification model for granite"),
        (OPTConfig(vocab_size=32, hidden_size=16, word_embed_proj_dim=16, ffn_dim=32, num_hidden_layers=2,
                   num_attention_heads=2), "one list of 2 transformer layers in OPTModel, found 0"),
        (BloomConfig(vocab_size=32, hidden_size=16, n_layer=2, n_head=2), "no max_position_embeddings"),
    ],
)  # fmt: skip
def test_a_causal_lm_that_is_not_covered_is_refused(tmp_path, config, message):
    causal = AutoModelForCausalLM.from_config(config)
    if causal.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(causal.get_output_embeddings().bias)
    causal.save_pretrained(tmp_path)
    with pytest.raises(UserError, match=message):
        Scorer.from_causal_lm(tmp_path, yes=5, no=6)


@pytest.mark.parametrize("bf16", [True, False])
def test_attention_is_ours_on_the_cpu(tiny, bf16):
    scorer = tiny.scorer().on(Compute(torch.device("cpu"), bf16))
    assert scorer.layers[0].self_attn.config._attn_implementation == "strips"


def refuse(*given, **named):
    raise ValueError("does not support sdpa")


@pytest.mark.parametrize("name, stub", [("_can_set", lambda *given: False), ("_check_and_adjust", refuse)])
def test_a_model_that_keeps_its_own_attention_is_refused(tiny, monkeypatch, name, stub):
    scorer = tiny.scorer()
    scorer.model.set_attn_implementation("eager")
    monkeypatch.setattr(type(scorer.model), f"{name}_attn_implementation", stub)
    with pytest.raises(UserError, match="LlamaForSequenceClassification has its own attention"):
        scorer.on(Compute(torch.device("cpu"), bf16=False))


def test_a_sliding_window_bounds_the_context():
    def scorer(window):
        config = MistralConfig(**SHAPE, num_key_value_heads=1, num_labels=2, sliding_window=window)
        return Scorer(AutoModelForSequenceClassification.from_config(config))

    assert (scorer(None).context(), scorer(8).context(), scorer(4096).context()) == (64, 8, 64)


def scored(scorer, tiny):
    with torch.no_grad():
        return scorer(pack(tiny.lists, tiny.lists.windows(), tiny.prompts, scorer.context()), with_states=True)


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_a_truncated_model_scores_as_the_first_layers_of_the_whole_one(tiny, depth, tmp_path):
    whole, cut = tiny.scorer(layers=3), tiny.scorer(layers=3).keep(range(depth))
    found = scored(cut, tiny)
    expected = []
    for example in range(tiny.lists.offsets[-1]):
        ids = torch.tensor([tiny.prompts.example(tiny.lists, example)])
        states = []
        hook = whole.layers[depth - 1].register_forward_hook(
            lambda module, given, output, kept=states: kept.append(output)
        )
        with torch.no_grad():
            whole.body(input_ids=ids)
            no, yes = whole.model.score(whole.body.norm(states[0][0, -1]))
        hook.remove()
        expected.append(yes - no)
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, whole.context())
    torch.testing.assert_close(found.logits, torch.stack(expected)[batch.examples], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.states[:, :-1], scored(whole, tiny).states[:, : depth - 1])
    cut.model.save_pretrained(tmp_path)
    loaded = Scorer.load(tmp_path)
    assert len(loaded.layers) == depth and torch.equal(scored(loaded, tiny).logits, found.logits)


def test_a_truncation_keeps_the_kinds_of_its_layers(tmp_path):
    config = Qwen2Config(**SHAPE | {"num_hidden_layers": 3}, num_key_value_heads=1, num_labels=2)
    kinds = list(config.layer_types)
    scorer = Scorer(AutoModelForSequenceClassification.from_config(config)).keep(range(2))
    assert scorer.model.config.layer_types == kinds[:2]
    scorer.model.save_pretrained(tmp_path)
    assert len(Scorer.load(tmp_path).layers) == 2


def test_layers_are_left_out_for_a_while(tiny):
    scorer = tiny.scorer(layers=3)
    before, layers = scored(scorer, tiny).logits, list(scorer.layers)
    with scorer.only([0, 2]):
        within = scored(scorer, tiny)
    assert within.states.shape[1] == 2
    torch.testing.assert_close(within.logits, scored(tiny.scorer(layers=3).keep([0, 2]), tiny).logits)
    assert list(scorer.layers) == layers and scorer.model.config.num_hidden_layers == 3
    torch.testing.assert_close(scored(scorer, tiny).logits, before)


@pytest.mark.parametrize("kept", [[], [0, 2]])
def test_layers_that_are_not_there_cannot_be_kept(tiny, kept):
    scorer = tiny.scorer(layers=2)
    with pytest.raises(ValueError, match="expected some of 2 layers to keep, got"):
        scorer.keep(kept)
    assert len(scorer.layers) == 2
