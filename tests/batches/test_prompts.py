import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from fisher_ld.batches.prompts import answer_tokens, build_prompts
from fisher_ld.config.params import Answers, Prompt
from fisher_ld.core.errors import UserError


class Letters:
    """A tokenizer that splits every word into its letters, and begins a text with a token of its own."""

    def __call__(self, text, add_special_tokens=True):
        special = [1] if add_special_tokens else []
        many = [text] if isinstance(text, str) else text
        ids = [special + [ord(letter) for letter in one] for one in many]
        return type("Encoding", (), {"input_ids": ids[0] if isinstance(text, str) else ids})

    def convert_ids_to_tokens(self, ids):
        return [chr(i) for i in ids]


def test_answers_are_one_token_each():
    assert answer_tokens(Letters(), Answers(yes="y", no="n")) == (ord("y"), ord("n"))


@pytest.mark.parametrize("answers", [{"yes": "yes", "no": "n"}, {"yes": "y", "no": "no"}])
def test_an_answer_of_several_tokens_is_named_with_its_key(answers):
    (key, word), *_ = ((key, word) for key, word in answers.items() if len(word) > 1)
    pieces = ", ".join(repr(letter) for letter in word)
    message = rf"teacher\.answers\.{key}: expected a word of one token, got '{word}'.*\[{pieces}\]"
    with pytest.raises(UserError, match=message):
        answer_tokens(Letters(), Answers(**answers))


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
