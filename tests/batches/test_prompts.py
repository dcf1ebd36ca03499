import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fisher_ld.batches.prompts import answer_tokens, build_prompts
from fisher_ld.config.params import Answers, Prompt
from fisher_ld.core.errors import UserError
from tests.teachers import fast


class Letters:
    """A tokenizer that splits every word into its letters, and begins a text with a token of its own."""

    unk_token_id = None

    def __call__(self, text, add_special_tokens=True):
        special = [1] if add_special_tokens else []
        many = [text] if isinstance(text, str) else text
        ids = [special + [ord(letter) for letter in one] for one in many]
        return type("Encoding", (), {"input_ids": ids[0] if isinstance(text, str) else ids})


def test_answers_are_one_token_each():
    assert answer_tokens(Letters(), Answers(yes="y", no="n")) == (ord("y"), ord("n"))


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("byte-level", (" yes", " nay"), r"' yes', .*\['Ġyes'\] and ' nay', .*; set .* {yes: \" yes\", no: \" no\"}"),
        # a space stands before every text, so that one more is a token of its own
        ("sentence-pieces", (" yes", " no"), r"' yes', .* as \['▁', '▁yes'\] .*{yes: \"yes\", no: \"no\"}"),
    ],
)
def test_a_pair_of_answers_is_suggested(kind, words, message):
    with pytest.raises(UserError, match=message):
        answer_tokens(fast(kind), Answers(yes=words[0], no=words[1]))


def test_no_pair_is_suggested_where_none_is_known():
    """Every word is one token, but all that are not known the same."""
    inner = Tokenizer(models.WordLevel({"?": 0, "a": 1}, unk_token="?"))
    with pytest.raises(UserError, match=r"got 'a', .* as \['a'\] and 'no', .* as \['\?'\]; choose two words"):
        answer_tokens(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="?"), Answers(yes="a", no="no"))


def test_the_first_token_of_a_text_stands_before_the_prefix_alone():
    template = Prompt(prefix="p:", history="{text};", candidate="{text}?")
    prompts = build_prompts(Letters(), ["A", "B"], template)
    assert prompts.prefix == [1, ord("p"), ord(":")]
    assert prompts.history == [[ord("A"), ord(";")], [ord("B"), ord(";")]]
    assert prompts.candidate == [[ord("A"), ord("?")], [ord("B"), ord("?")]]
    assert prompts.tokens() == sorted({0, 1, *map(ord, "p:AB;?")})


def test_special_tokens_are_plain_text_in_an_item_and_special_in_the_template():
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    inner = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>")
    end = tokenizer.eos_token_id
    prompts = build_prompts(tokenizer, ["A<end>B", "A"], Prompt(prefix="p", history="<end>{text}", candidate="{text}?"))
    letters = [alphabet[letter] for letter in "A<end>B"]
    assert prompts.history == [[end, *letters], [end, alphabet["A"]]]
    assert prompts.candidate == [[*letters, alphabet["?"]], [alphabet["A"], alphabet["?"]]]
