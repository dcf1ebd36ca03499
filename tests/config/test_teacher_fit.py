import json

import pytest
from transformers import GPT2Config

from fisher_ld.config.params import parse
from fisher_ld.config.teacher_fit import check_shape
from fisher_ld.core.errors import UserError

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BYTE_LEVEL = {"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}


def check(folder, student, adapt=None, config=LLAMA, tokenizer=BYTE_LEVEL):
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    params = parse({"student": {"layers": 2} | student, "teacher": {"adapt": {"first_layers": 2} | (adapt or {})}})
    check_shape(params, folder)


@pytest.mark.parametrize(
    "student",
    [
        {},
        {"init": "spaced", "hidden_size": 8, "heads": 2, "kv_heads": 1, "intermediate_size": 24},
        {"init": "random", "layers": 4, "hidden_size": 64},
    ],
)
def test_what_the_teacher_can_give(tmp_path, student):
    check(tmp_path, student)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ({"init": "spaced", "hidden_size": 32}, "at most 16, got 32"),
        ({"init": "spaced", "heads": 4, "kv_heads": 1}, "at most the teacher's 4 / 2"),
        ({"init": "spaced", "heads": 3}, "multiple of student.heads"),
        ({"init": "random", "hidden_size": 10}, r"multiple of student.heads \(4\), got 10"),
        ({"init": "random", "heads": 1}, r"multiple of student.kv_heads \(2\), got 1"),
        ({"init": "random", "hidden_size": 12}, "even head size"),
        ({"init": "first", "layers": 5}, "student.layers: expected at most the teacher's 4 layers, got 5"),
    ],
)
def test_shapes_that_cannot_be_had(tmp_path, student, message):
    with pytest.raises(UserError, match=message):
        check(tmp_path, student)


def test_all_faults_at_once(tmp_path):
    with pytest.raises(UserError) as error:
        check(tmp_path, {"layers": 5}, {"first_layers": 4}, tokenizer={"model": {"type": "WordLevel"}, "decoder": None})
    text = str(error.value)
    assert "student.layers: expected at most the teacher's 4 layers, got 5" in text
    assert "first_layers: expected less than the teacher's 4 layers, got 4; null" in text
    assert "byte-level BPE" in text and "WordLevel" in text and "student.vocabulary: full" in text


def test_gpt2_by_its_own_names_is_not_projected(tmp_path):
    config = GPT2Config(n_embd=16, n_layer=3, n_head=4).to_dict()
    check(tmp_path, {}, config=config)
    with pytest.raises(UserError, match="the teacher is gpt2"):
        check(tmp_path, {"init": "spaced", "hidden_size": 8}, config=config)
    with pytest.raises(UserError, match="at most the teacher's 3 layers"):
        check(tmp_path, {"layers": 4}, config=config)


def test_nothing_is_checked_before_there_is_a_teacher(tmp_path):
    check_shape(parse({"student": {"layers": 99}}), tmp_path)
