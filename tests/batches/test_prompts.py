import pytest

from fisher_ld.batches.prompts import single_token
from fisher_ld.core.errors import UserError


class Letters:
    """A tokenizer that splits every word into its letters."""

    def __call__(self, word, add_special_tokens):
        return type("Encoding", (), {"input_ids": [ord(letter) for letter in word]})

    def convert_ids_to_tokens(self, ids):
        return [chr(i) for i in ids]


def test_an_answer_word_is_one_token():
    assert single_token(Letters(), "y", "yes") == ord("y")
    with pytest.raises(
        UserError, match=r"teacher\.prompt\.yes: expected a word of one token, got 'yes'.*'y', 'e', 's'"
    ):
        single_token(Letters(), "yes", "yes")
