"""Vocabulary pruning on a tiny byte-level BPE."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from fisher_ld.core.errors import UserError
from fisher_ld.models.vocabulary import prune

SEEN = ["the story of a toy", "toy story two", "another story\n"]


def test_seen_text_is_split_as_before(tokenizer):
    pruned, old = prune(tokenizer, SEEN)
    assert len(pruned) == len(old) < len(tokenizer)
    for text in SEEN:
        before = tokenizer(text).input_ids
        assert [int(old[i]) for i in pruned(text).input_ids] == before
        assert pruned.convert_ids_to_tokens(pruned(text).input_ids) == tokenizer.convert_ids_to_tokens(before)


@pytest.mark.parametrize("text", ["numbers and letters", "玩具总动员", "🎬 café\t\x00\x7f", "ÿþ"])
def test_rare_text_is_bytes_not_unknown(tokenizer, text):
    pruned, _ = prune(tokenizer, SEEN)
    ids = pruned(text).input_ids
    assert pruned.unk_token_id is None or pruned.unk_token_id not in ids
    assert pruned.decode(ids, clean_up_tokenization_spaces=False) == text


def test_other_tokenizers_are_refused():
    words = Tokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    with pytest.raises(UserError, match=r"vocabulary: pruned needs .*WordLevel.*; set vocabulary: full"):
        prune(PreTrainedTokenizerFast(tokenizer_object=words), ["a"])


def test_random_unicode_comes_back(tokenizer):
    pruned, _ = prune(tokenizer, SEEN)
    rng = np.random.default_rng(0)
    for _ in range(50):
        latin = bytes(rng.integers(0, 256, 40, dtype=np.uint8)).decode("latin-1")
        anything = "".join(chr(c) for c in rng.integers(0, 0x110000, 40) if not 0xD800 <= c < 0xE000)
        for text in (latin, anything):
            assert pruned.decode(pruned(text).input_ids, clean_up_tokenization_spaces=False) == text


def test_merges_that_kept_tokens_pass_through_are_kept():
    """abcd is reached by ab, then abc; ab and abc are in no text alone."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab = alphabet | {"ab": 256, "bc": 257, "abc": 258, "xy": 259, "abcd": 260}
    inner = Tokenizer(models.BPE(vocab, [("a", "b"), ("b", "c"), ("ab", "c"), ("x", "y"), ("abc", "d")]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    pruned, old = prune(PreTrainedTokenizerFast(tokenizer_object=inner), ["abcd"])
    assert pruned.tokenize("abcd") == ["abcd"]
    assert set(old[256:]) == {256, 258, 260}
    assert pruned.tokenize("xybc") == ["x", "y", "b", "c"]


def test_words_that_no_merge_reaches_are_kept():
    """Llama 3 looks whole words up first: b and c are merged before a and b, and nothing joins a and bc."""
    alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    vocab = alphabet | {"ab": 256, "bc": 257, "abc": 258}
    inner = Tokenizer(models.BPE(vocab, [("b", "c"), ("a", "b"), ("ab", "c")], ignore_merges=True))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    whole = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert whole.tokenize("abc") == ["abc"]
    assert prune(whole, ["abc"])[0].tokenize("abc") == ["abc"]


@pytest.mark.parametrize("nested", [False, True])
def test_special_tokens_around_a_text_are_renumbered(tokenizer, nested):
    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.add_special_tokens(["<start>"])  # the last id, so that it moves
    around = processors.TemplateProcessing("<start> $A", special_tokens=[("<start>", inner.token_to_id("<start>"))])
    byte_level = processors.ByteLevel(trim_offsets=False)
    inner.post_processor = processors.Sequence([byte_level, around]) if nested else around
    full = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<start>", eos_token="<end>")
    pruned, old = prune(full, SEEN)
    assert pruned(SEEN[0]).input_ids[0] == pruned.bos_token_id
    assert [int(old[i]) for i in pruned(SEEN[0]).input_ids] == full(SEEN[0]).input_ids
    assert pruned.decode(pruned(SEEN[0]).input_ids, skip_special_tokens=True) == SEEN[0]
