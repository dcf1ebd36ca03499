"""Weights read one by one against transformers' own loading."""

import pytest
import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig, PhiConfig, Qwen2Config

from fisher_ld.batches.packing import pack
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.models import weights
from fisher_ld.models.scorer import Scorer, score_lists

SHAPE = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 64}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, **HEADS),
    "llama-tied": LlamaConfig(**SHAPE, **HEADS, tie_word_embeddings=True),
    "qwen2-biases": Qwen2Config(**SHAPE, **HEADS),
    "gpt2": GPT2Config(vocab_size=32, n_embd=16, n_layer=2, n_head=2, n_positions=64, pad_token_id=0),
}
BF16, FP32 = (Compute(torch.device("cpu"), bf16) for bf16 in (True, False))


def saved(config, folder):
    """A causal LM of random weights, biases included."""
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(config)
    for parameter in causal.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    causal.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("config", CONFIGS.values(), ids=list(CONFIGS))
def test_matrices_that_rest_in_bf16_change_no_score(tiny, tmp_path, config):
    folder = saved(config, tmp_path / "base")
    whole = Scorer.from_causal_lm(folder, 3, 7).on(BF16)
    whole.model.save_pretrained(tmp_path / "saved")
    expected = score_lists(whole, tiny.lists, tiny.prompts)
    for given in ((folder, BF16, 3, 7), (tmp_path / "saved", BF16)):
        own = Scorer.placed(*given, frozen=True)
        kinds = {name.rsplit(".", 2)[-2]: p.dtype for name, p in own.named_parameters() if name.endswith("weight")}
        assert {name for name, dtype in kinds.items() if dtype == torch.bfloat16} == {
            name.rsplit(".")[-1] for name, m in own.body.named_modules() if m in weights.matrices(own.body)
        }
        assert kinds["score"] == torch.float32 and not any(p.requires_grad for p in own.parameters())
        found = score_lists(own, tiny.lists, tiny.prompts)
        assert all((a == b).all() for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("compute, frozen", [(FP32, True), (BF16, False)])
def test_what_computes_in_float32_or_is_trained_rests_in_float32(tmp_path, compute, frozen):
    folder = saved(CONFIGS["llama"], tmp_path)
    own, whole = Scorer.placed(folder, compute, 3, 7, frozen=frozen), Scorer.from_causal_lm(folder, 3, 7)
    assert {p.dtype for p in own.parameters()} == {torch.float32}
    assert all(torch.equal(a, b) for a, b in zip(own.parameters(), whole.parameters(), strict=True))


def test_no_whole_model_is_read_before_its_matrices_are_rounded(tmp_path, monkeypatch):
    folder = saved(CONFIGS["llama"], tmp_path)
    monkeypatch.setattr(Scorer, "from_causal_lm", lambda *given: pytest.fail("read as a whole"))
    Scorer.placed(folder, BF16, 3, 7, frozen=True)


def test_on_a_gpu_main_memory_never_holds_the_whole(tmp_path, monkeypatch):
    folder, gpu = saved(CONFIGS["llama"], tmp_path), Compute(torch.device("meta"), bf16=False)
    monkeypatch.setattr(Scorer, "from_causal_lm", lambda *given: pytest.fail("read as a whole"))
    assert {p.device.type for p in Scorer.placed(folder, gpu, 3, 7).parameters()} == {"meta"}


@pytest.mark.parametrize("compute", [FP32, BF16])
def test_weights_that_do_not_fit_are_refused_before_they_are_read(tmp_path, monkeypatch, compute, capsys):
    tied, free = LlamaConfig(**SHAPE, **HEADS).to_dict(), 2**-30 * 10_000
    folder = saved(LlamaConfig(**tied), tmp_path)
    monkeypatch.setattr(Compute, "free", lambda self: free)
    monkeypatch.setattr(weights, "_reader", lambda folder: pytest.fail("read"))
    monkeypatch.setattr(Scorer, "from_causal_lm", lambda *given: pytest.fail("read"))
    with pytest.raises(UserError, match=r"the weights take 0\.0 GiB in each process, 0\.0 are free: .*cluster\.shard"):
        Scorer.placed(folder, compute, 3, 7, frozen=True)
    free = 3.0
    weights.check_room(torch.nn.Linear(2**15, 2**14, device="meta"), compute)
    assert "weights: about 2.0 GiB of 3.0 in each process" in capsys.readouterr().err


def test_files_that_name_weights_otherwise_are_read_by_transformers(tiny, tmp_path):
    """As of the first GPT-2: its names have no prefix."""
    torch.manual_seed(0)
    causal = AutoModelForCausalLM.from_config(CONFIGS["gpt2"])
    causal.save_pretrained(tmp_path, state_dict=causal.transformer.state_dict())
    own, whole = Scorer.placed(tmp_path, BF16, 3, 7, frozen=True), Scorer.from_causal_lm(tmp_path, 3, 7).on(BF16)
    batch = pack(tiny.lists, tiny.lists.windows(), tiny.prompts, 64)
    assert torch.equal(own(batch).logits, whole(batch).logits)
    assert own.layers[0].mlp.c_fc.weight.dtype == torch.bfloat16


def test_a_head_with_a_bias_is_refused(tmp_path):
    folder = saved(PhiConfig(**SHAPE, num_attention_heads=2, max_position_embeddings=64), tmp_path)
    with pytest.raises(UserError, match="a head with a bias"):
        Scorer.placed(folder, BF16, 3, 7, frozen=True)


def test_what_is_on_disk_is_what_was_saved(tiny, tmp_path):
    scorer = tiny.scorer()
    weights.narrow(scorer.model)
    scorer.model.save_pretrained(tmp_path)
    found = Scorer.on_disk(tmp_path)
    for (name, own), saved_ in zip(found.named_parameters(), scorer.parameters(), strict=True):
        assert own.dtype == saved_.dtype and torch.equal(own, saved_), name
