"""Vocabulary pruning and student initialisation, on a tiny byte-level BPE and a tiny random teacher."""

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import build_student, layers_taken, prompt_texts, save
from fisher_ld.models.vocabulary import prune
from fisher_ld.params import Prompt, Student
from fisher_ld.runtime import UserError

SEEN = ["the story of a toy", "toy story two", "another story\n"]
CORPUS = [*SEEN, "totally different words which are never seen again", "numbers and letters, letters and numbers"]


@pytest.fixture(scope="module")
def tokenizer():
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<end>"], initial_alphabet=alphabet)
    inner.train_from_iterator(CORPUS * 5, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", pad_token="<end>")


@pytest.fixture(scope="module")
def teacher(tokenizer):
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, num_labels=2, **shape)
    config.pad_token_id = tokenizer.pad_token_id
    return Scorer(AutoModelForSequenceClassification.from_config(config).eval())


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
    with pytest.raises(UserError, match=r"student.vocabulary: full"):
        prune(PreTrainedTokenizerFast(tokenizer_object=words), ["a"])


def test_all_layers_and_pruned_words_are_the_teacher(teacher, tokenizer):
    student, own = build_student(teacher, Student(layers=4), tokenizer, SEEN, seed=1)
    for text in SEEN:
        ours = student.model(**own(text, return_tensors="pt")).logits
        theirs = teacher.model(**tokenizer(text, return_tensors="pt")).logits
        torch.testing.assert_close(ours, theirs)


def test_layers_taken():
    assert layers_taken("first", 30, 3) == [0, 1, 2]
    assert layers_taken("spaced", 30, 3) == [9, 19, 29]
    with pytest.raises(UserError, match="at most the teacher's 4 layers"):
        layers_taken("first", 4, 5)


def test_random_is_seeded_and_has_its_own_shape(teacher, tokenizer):
    shape = Student(init="random", layers=2, hidden_size=8, intermediate_size=12, heads=2, kv_heads=1)
    first, again = (build_student(teacher, shape, tokenizer, SEEN, seed=5)[0] for _ in range(2))
    other = build_student(teacher, shape, tokenizer, SEEN, seed=6)[0]
    assert first.model.config.hidden_size == 8 and len(first.layers) == 2
    assert torch.equal(first.layers[1].mlp.up_proj.weight, again.layers[1].mlp.up_proj.weight)
    assert not torch.equal(first.layers[1].mlp.up_proj.weight, other.layers[1].mlp.up_proj.weight)


def test_own_width_needs_a_random_start(teacher, tokenizer):
    with pytest.raises(UserError, match=r"student.hidden_size is 8"):
        build_student(teacher, Student(init="spaced", layers=2, hidden_size=8), tokenizer, SEEN, seed=0)


def test_saved_student_loads_in_one_line(teacher, tokenizer, tmp_path):
    student, own = build_student(teacher, Student(layers=2), tokenizer, SEEN, seed=0)
    save(student, own, Prompt(), tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "student")
    batch = loaded(["toy", "the story of a toy"], return_tensors="pt", padding=True)
    expected = student.model(**own("the story of a toy", return_tensors="pt")).logits
    torch.testing.assert_close(model(**batch).logits[1:], expected)
    assert model.config.id2label == student.model.config.id2label
    assert (tmp_path / "student" / "model.safetensors").is_file()


def test_prompt_texts_name_every_piece():
    assert prompt_texts(["A", "B"], Prompt(prefix="p", history="{text};", candidate="{text}?")) == [
        "p", " yes", " no", "A;", "B;", "A?", "B?",
    ]  # fmt: skip
