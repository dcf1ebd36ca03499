import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from fisher_ld.batches.prompts import build_prompts
from fisher_ld.config.params import Prompt
from fisher_ld.core.errors import UserError
from fisher_ld.serving.tokenizer import SavedTokenizer

TEXTS = ["A<end>B", "a  plain text", "<begin>", "", "ÄÖ \n\u2603 <END>", "<end><end>"]
TEMPLATES = {
    "plain": Prompt(prefix="liked:\n", history="{text}\n", candidate="{text}?"),
    "special": Prompt(prefix="<begin>", history="{text}<end>", candidate="<end> {text} {text}?"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a byte-level tokenizer that begins a text with a token of its own; its file asks for padding and truncation,
    as those of some pretrained models do."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    inner.add_special_tokens(["<begin>", "<end>"])
    begin = inner.token_to_id("<begin>")
    inner.post_processor = processors.TemplateProcessing("<begin> $A", special_tokens=[("<begin>", begin)])
    path = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<begin>", eos_token="<end>").save_pretrained(path)
    asking = Tokenizer.from_file(str(path / "tokenizer.json"))
    asking.enable_padding(pad_id=1, pad_token="<end>")
    asking.enable_truncation(2)
    asking.save(str(path / "tokenizer.json"))
    return path


@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_prompts_are_those_of_transformers(folder, template):
    found = build_prompts(SavedTokenizer(folder), TEXTS, template)
    assert found == build_prompts(AutoTokenizer.from_pretrained(folder), TEXTS, template)
    assert len(found.prefix) > 1 and len(found.history[0]) > 5


def test_a_folder_without_the_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"tokenizer\.json: no such file"):
        SavedTokenizer(tmp_path)
