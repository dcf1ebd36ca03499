import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.config.paths import DataPaths
from fisher_ld.core.compute import Compute
from fisher_ld.core.errors import UserError
from fisher_ld.evaluation.baselines.mean_states import DEPTHS, MeanStates, read_states
from fisher_ld.models import item_states
from tests.evaluation.baselines.likes import lists_of

WORDS = ["toy", "story", "heat", "seven", "?"]


@pytest.fixture
def base(tmp_path):
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(WORDS), hidden_size=8, intermediate_size=16, num_hidden_layers=4, num_attention_heads=2
    )
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    return tmp_path


def test_states_are_the_mean_over_the_tokens_of_each_text_alone(base, monkeypatch):
    texts = ["toy story toy heat", "heat", "seven story", "toy"]
    monkeypatch.setattr(item_states, "TOKENS", 5)  # batches of one text, and of several with padding
    found = item_states.embed(base, texts, DEPTHS, Compute(torch.device("cpu"), bf16=False))
    model = LlamaForCausalLM.from_pretrained(base)
    for number, text in enumerate(texts):
        ids = torch.tensor([[WORDS.index(word) for word in text.split()]])
        with torch.inference_mode():
            states = model(ids, output_hidden_states=True).hidden_states
        for name, layer in (("quarter", 1), ("half", 2), ("last", 4)):
            np.testing.assert_allclose(found[name][number], states[layer][0].mean(0), atol=2e-3)


def test_a_long_text_is_cut(base, monkeypatch):
    monkeypatch.setattr(item_states, "LONGEST", 2)
    cut, short = item_states.embed(
        base, ["toy story heat", "toy story"], DEPTHS, Compute(torch.device("cpu"), bf16=False)
    )["last"]
    np.testing.assert_allclose(cut, short, atol=1e-3)


def test_a_candidate_is_like_the_history_by_the_cosine_of_states():
    states = {name: np.zeros((4, 2), np.float16) for name in DEPTHS}
    states["half"] = np.array([[1, 0], [3, 4], [0, 5], [0, 0]], np.float16)
    lists = lists_of([0], [2], [[1, 2, 3]], sequences=[np.array([0, 2])])
    found = MeanStates.fit(states, depth="half", standardised=False, decay=0.5).score(lists)[0]
    assert found == pytest.approx([0.5 * 0.6 + 0.8, 1, 0])


def test_what_all_states_share_counts_nothing_once_standardised():
    rng = np.random.default_rng(0)
    varied = rng.normal(size=(6, 3))
    states = {"last": varied}
    shifted = {"last": 1000 + 50 * varied}
    lists = lists_of([0], [2], [[1, 2, 3]], sequences=[np.array([0, 4])])
    plain, moved = (
        MeanStates.fit(s, depth="last", standardised=True, decay=1.0).score(lists)[0] for s in (states, shifted)
    )
    np.testing.assert_allclose(plain, moved)
    raw = MeanStates.fit(shifted, depth="last", standardised=False, decay=1.0).score(lists)[0]
    assert np.ptp(raw) < 0.1 < np.ptp(plain)


def test_states_that_were_not_made_are_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="run the stage embed_items"):
        read_states(DataPaths("d"))
