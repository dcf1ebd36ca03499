import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from fisher_ld.core.errors import UserError
from fisher_ld.fisher import gram
from fisher_ld.fisher.gradient_norms import gradient_norms, logits_of, pad_prompts
from fisher_ld.fisher.hooks import Sums
from fisher_ld.kernels.attention import _strips
from fisher_ld.kernels.linear import _onednn
from fisher_ld.models.scorer import Scorer


def assert_equal(result, case, rtol):
    torch.testing.assert_close(result.logits, case.logits, rtol=rtol, atol=rtol)
    torch.testing.assert_close(result.layers, case.total[:, 1:-1], rtol=rtol, atol=0)
    torch.testing.assert_close(result.normalisation, case.normalisation[:, 1:-1], rtol=rtol, atol=0)
    torch.testing.assert_close(result.embedding, case.total[:, 0], rtol=rtol, atol=0)
    torch.testing.assert_close(result.head, case.total[:, -1], rtol=rtol, atol=0)
    torch.testing.assert_close(result.sensitivity, case.sensitivity, rtol=rtol, atol=0)


@pytest.mark.parametrize("gram_form", [True, False, None], ids=["gram", "gradient", "cheaper"])
def test_norms_are_those_of_the_naive_loop(case, prompts, gram_form, monkeypatch):
    if gram_form is not None:
        monkeypatch.setattr("fisher_ld.fisher.hooks.gram_is_cheaper", lambda *sizes: gram_form)
    assert_equal(gradient_norms(Scorer(case.model), pad_prompts(prompts)), case, 1e-10)


def assert_list(lists, row, expected, rtol):
    total, normalisation = expected
    torch.testing.assert_close(lists.layers[row], total[1:-1], rtol=rtol, atol=0)
    torch.testing.assert_close(lists.normalisation[row], normalisation[1:-1], rtol=rtol, atol=0)
    torch.testing.assert_close(lists.embedding[row], total[0], rtol=rtol, atol=0)
    torch.testing.assert_close(lists.head[row], total[-1], rtol=rtol, atol=0)


@pytest.mark.parametrize("gram_form", [True, False, None], ids=["gram", "gradient", "cheaper"])
def test_a_lists_weighted_gradient_has_one_norm(case, naive_of_list, prompts, gram_form, monkeypatch):
    """Of two lists of two prompts, from the backward pass that gives each example's norm."""
    if gram_form is not None:
        monkeypatch.setattr("fisher_ld.fisher.hooks.gram_is_cheaper", lambda *sizes: gram_form)
    result = gradient_norms(Scorer(case.model), pad_prompts(prompts), candidates=2)
    assert_equal(result, case, 1e-10)
    for row in range(2):
        assert_list(result.lists, row, naive_of_list(case.model, prompts[2 * row : 2 * row + 2]), 1e-10)


@pytest.mark.parametrize("gram_form", [True, False, None], ids=["gram", "gradient", "cheaper"])
def test_what_a_lists_prompts_have_in_common_counts_once(case, naive_of_list, gram_form, monkeypatch):
    """Two lists of three prompts, which share eight and nine tokens. One of them ends there."""
    if gram_form is not None:
        monkeypatch.setattr("fisher_ld.fisher.hooks.gram_is_cheaper", lambda *sizes: gram_form)
    lengths = []
    plain = Sums.joined
    monkeypatch.setattr(Sums, "joined", lambda sums, x: lengths.append((result := plain(sums, x)).shape[:2]) or result)
    history, other = [3, 4, 0, 6, 3, 3, 9, 8], [7, 7, 5, 4, 3, 2, 2, 6, 1]
    lists = [[[*history, *end] for end in ([5], [6, 7], [])], [[*other, *end] for end in ([5, 3, 2, 1], [9], [8, 8])]]
    batch = pad_prompts([prompt for prompts in lists for prompt in prompts])
    result = gradient_norms(Scorer(case.model), batch, candidates=3)
    for row, prompts in enumerate(lists):
        assert_list(result.lists, row, naive_of_list(case.model, prompts), 1e-10)
    longest = len(other) + 4
    assert (2, 8 + 3 * (longest - 8)) in lengths


@pytest.mark.parametrize("architecture", ["llama", "llama-biases", "qwen3", "gemma", "gpt2"])
def test_a_lists_norm_in_float32_with_checkpointing_is_close(build_model, naive_of_list, prompts, architecture):
    model = build_model(architecture, dtype=torch.float32)
    result = gradient_norms(Scorer(model), pad_prompts(prompts), checkpointing=True, candidates=4)
    assert_list(result.lists, 0, naive_of_list(model, prompts), 1e-4)


def test_rows_that_are_no_whole_lists_are_refused(build_model, prompts):
    with pytest.raises(ValueError, match="lists of 3 rows each, got 4 rows"):
        gradient_norms(Scorer(build_model()), pad_prompts(prompts), candidates=3)
    assert gradient_norms(Scorer(build_model()), pad_prompts(prompts)).lists is None


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_prompts_of_one_length_need_no_mask(build_model, naive, keep_float64, attention):
    model, prompts = build_model(attention=attention), [[3, 4, 5, 6, 3], [9, 8, 7, 3, 3]]
    assert_equal(gradient_norms(Scorer(model), pad_prompts(prompts)), naive(model, prompts), 1e-10)


@pytest.mark.parametrize("dtype, taken", [(torch.float32, 2 * (3 * 7 + 1) + 3), (torch.float64, 0)])
def test_float32_layers_multiply_by_onednn_meanwhile(build_model, prompts, monkeypatch, dtype, taken):
    model, inputs = build_model(dtype=dtype), []
    monkeypatch.setattr("fisher_ld.kernels.linear._onednn", lambda *given: inputs.append(given[0]) or _onednn(*given))
    gradient_norms(Scorer(model), pad_prompts(prompts))
    assert len(inputs) == taken  # forward and backward; the last layer's q/k/v once more, without a gradient


def test_a_linear_layer_with_a_forward_of_its_own_keeps_it(build_model, naive, prompts):
    model = build_model(dtype=torch.float32)
    layer = model.model.layers[1].mlp.up_proj
    plain = layer.forward
    layer.forward = lambda x: plain(x).mul(3)
    found, expected = gradient_norms(Scorer(model), pad_prompts(prompts)), naive(model, prompts)
    torch.testing.assert_close(found.logits, expected.logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("attention, strips", [("sdpa", 3), ("eager", 0)])
def test_attention_is_by_strips_meanwhile(build_model, prompts, monkeypatch, attention, strips):
    taken = []
    monkeypatch.setattr("fisher_ld.kernels.attention._strips", lambda *given: taken.append(given) or _strips(*given))
    gradient_norms(Scorer(build_model(attention=attention)), pad_prompts(prompts))
    assert len(taken) == strips  # once a layer


def test_a_swiglu_keeps_gate_and_up_alone(build_model, prompts):
    model, batch, kept = build_model(), pad_prompts(prompts), []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.shape) or x, lambda x: x):
        gradient_norms(Scorer(model), batch)
    assert kept.count((*batch.input_ids.shape, model.config.intermediate_size)) == 2 * 2  # the last layer's are short


def test_checkpointing_changes_nothing(case, prompts):
    assert_equal(gradient_norms(Scorer(case.model), pad_prompts(prompts), checkpointing=True), case, 1e-10)


def test_short_prompts_take_the_gram_form_and_long_ones_the_gradient(build_model, prompts, monkeypatch):
    taken = []
    monkeypatch.setattr(
        "fisher_ld.fisher.hooks.gradient_norm", lambda a, g: taken.append(a) or gram.gradient_norm(a, g)
    )
    model = build_model()
    gradient_norms(Scorer(model), pad_prompts(prompts[:1]))
    assert not taken
    gradient_norms(Scorer(model), pad_prompts(prompts))
    assert len(taken) == 2 * 7 + 2  # q, k, v, o, gate, up, down; of the last layer keys and values alone are long


def test_queries_keys_and_values_share_one_input_gram(build_model, prompts, monkeypatch):
    inputs = []
    monkeypatch.setattr("fisher_ld.fisher.hooks.count_mirrored", lambda s: inputs.append(s) or gram.count_mirrored(s))
    gradient_norms(Scorer(build_model()), pad_prompts(prompts[:1]))
    assert len(inputs) == 3 * 4 + 1 + 2  # q/k/v, o, gate/up, down of a layer; the last one's q; head and embedding


@pytest.mark.parametrize(
    "architecture", ["llama", "llama-biases", "qwen2", "qwen3", "mistral", "gemma", "gemma3", "gpt2"]
)
def test_float32_is_close(build_model, naive, prompts, architecture):
    model = build_model(architecture, dtype=torch.float32)
    found, expected = gradient_norms(Scorer(model), pad_prompts(prompts)), naive(model, prompts)
    assert_equal(found, expected, 1e-4)
    torch.testing.assert_close(found.layers.mean(0), expected.total[:, 1:-1].mean(0), rtol=1e-5, atol=0)


@pytest.mark.parametrize("tied", [True, False])
def test_a_causal_lm_keeps_its_logit_with_a_tied_head_and_without(naive, prompts, tmp_path, tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=3, num_attention_heads=4,
        max_position_embeddings=160, tie_word_embeddings=tied, initializer_range=0.5,
    )  # fmt: skip
    causal = LlamaForCausalLM(config).eval()
    causal.save_pretrained(tmp_path)
    model = Scorer.from_causal_lm(tmp_path, yes=5, no=6).model
    no, yes = causal(torch.tensor(prompts[1:2])).logits[0, -1, [6, 5]]
    torch.testing.assert_close(logits_of(model, pad_prompts(prompts[1:2]))[0], yes - no)
    assert_equal(gradient_norms(Scorer(model), pad_prompts(prompts)), naive(model, prompts), 1e-4)


def test_the_logit_is_that_of_the_plain_model(build_model, prompts):
    model = build_model(dtype=torch.float32)
    batch = pad_prompts(prompts[1:2])
    no, yes = model(batch.input_ids, attention_mask=batch.attention_mask).logits[0]
    torch.testing.assert_close(logits_of(model, batch)[0], yes - no)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_model_is_left_as_it_was(build_model, prompts, checkpointing):
    model = build_model("gpt2")  # with dropout, which must be off meanwhile
    batch = pad_prompts(prompts)
    evaluated = gradient_norms(Scorer(model), batch, checkpointing=checkpointing)
    model.train()
    model.score.requires_grad_(False)
    trained = gradient_norms(Scorer(model), batch, checkpointing=checkpointing)

    torch.testing.assert_close(trained.layers, evaluated.layers)
    assert all(module.training for module in model.modules())
    assert [name for name, p in model.named_parameters() if not p.requires_grad] == ["score.weight"]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
    assert not any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def test_a_module_used_twice_is_refused(build_model, prompts):
    model = build_model()
    attention = model.model.layers[1].self_attn
    attention.v_proj.register_forward_hook(lambda module, inputs, output: output + attention.k_proj(inputs[0]))
    with pytest.raises(UserError, match=r"layers\.1\.self_attn\.k_proj: .* gradient in several calls"):
        gradient_norms(Scorer(model), pad_prompts(prompts))


@pytest.mark.parametrize("called", [False, True])
def test_a_module_without_a_gradient_is_refused(build_model, prompts, called):
    model = build_model()
    mlp = model.model.layers[2].mlp
    mlp.register_module("spare", torch.nn.Linear(16, 4).double())

    def use_in_vain(module, inputs):
        module.spare(inputs[0])

    if called:
        mlp.register_forward_pre_hook(use_in_vain)
    with pytest.raises(UserError, match=rf"layers\.2\.mlp\.spare: .* no gradient in {int(called)} calls"):
        gradient_norms(Scorer(model), pad_prompts(prompts))


def test_an_input_changed_in_place_is_refused(build_model, prompts):
    model = build_model()

    def double(module, inputs, output):
        inputs[0].mul_(2)

    model.model.layers[1].self_attn.v_proj.register_forward_hook(double)
    with pytest.raises(UserError, match="changed in place"):
        gradient_norms(Scorer(model), pad_prompts(prompts[:1]))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_call_by_keyword_is_refused(build_model, prompts, dtype):
    model = build_model(dtype=dtype)
    mlp = model.model.layers[2].mlp
    mlp.forward = lambda x: mlp.down_proj(input=mlp.gate_proj(x) * mlp.up_proj(x))
    with pytest.raises(UserError, match=r"layers\.2\.mlp\.down_proj: .*one positional argument, got 0"):
        gradient_norms(Scorer(model), pad_prompts(prompts))


def test_an_output_that_the_examples_share_is_refused(build_model, prompts):
    model = build_model()
    mlp = model.model.layers[1].mlp
    mlp.register_module("table", torch.nn.Embedding(160, 16).double())
    plain = mlp.forward
    mlp.forward = lambda x: plain(x) + mlp.table(torch.arange(x.shape[1])[None])
    with pytest.raises(UserError, match=r"layers\.1\.mlp\.table: expected 4 rows, one an example, got \(1, 150"):
        gradient_norms(Scorer(model), pad_prompts(prompts))


def test_a_decision_at_padding_is_refused(build_model, prompts):
    batch = pad_prompts(prompts)
    batch.attention_mask[2] = 0
    with pytest.raises(UserError, match="is padding"):
        gradient_norms(Scorer(build_model()), batch)
    for wrong in ([], [[1], []]):
        with pytest.raises(ValueError, match="none of them empty"):
            pad_prompts(wrong)


def test_norms_that_are_not_finite_are_refused(build_model, prompts):
    model = build_model()
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"of example 0 in layer .* is not finite"):
        gradient_norms(Scorer(model), pad_prompts(prompts))


def test_another_head_is_refused(build_model, prompts):
    model = build_model()
    with pytest.raises(UserError, match=r"two labels .* got LlamaModel"):
        logits_of(model.model, pad_prompts(prompts))
    model.config.num_labels = 3
    with pytest.raises(UserError, match="with 3 labels"):
        gradient_norms(Scorer(model), pad_prompts(prompts))


def test_prompts_are_padded_behind():
    found = pad_prompts([[5, 6], [7, 8, 9]])
    assert found.input_ids.tolist() == [[5, 6, 0], [7, 8, 9]]
    assert found.attention_mask.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert found.decision.tolist() == [1, 2]
