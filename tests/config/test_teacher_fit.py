import json

import pytest
from transformers import GPT2Config

from fisher_ld.config.params import Student
from fisher_ld.config.teacher_fit import check_teacher_fit, size_in_layers
from fisher_ld.core.errors import UserError
from tests.given import given

LLAMA = {
    "model_type": "llama",
    "num_hidden_layers": 4,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
BYTE_LEVEL = {"model": {"type": "BPE"}, "decoder": {"type": "ByteLevel"}}
EVERY = {"run": {"shallow": ["truncated-1", "truncated-2", "truncated-3"]}}


def check(folder, *students, config=LLAMA, tokenizer=BYTE_LEVEL, changes=EVERY):
    """`students`: what each has besides, named a, b, ..."""
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    plain = {"init": "first", "layers": 2, "vocabulary": "pruned"}
    shapes = {name: plain | student for name, student in zip("abc", students, strict=False)}
    run = {**changes.get("run", {}), "students": list(shapes)}
    check_teacher_fit(given({**changes, "students": shapes, "run": run}), folder)


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
        ({"init": "spaced", "hidden_size": 32}, "students.b.hidden_size: .*at most 16, got 32"),
        ({"init": "spaced", "heads": 4, "kv_heads": 1}, "students.b.heads / kv_heads: .*at most the teacher's 4 / 2"),
        ({"init": "spaced", "heads": 3}, r"students.b.hidden_size: expected a multiple of heads \(3\), got 16"),
        ({"init": "random", "hidden_size": 10}, r"hidden_size: expected a multiple of heads \(4\), got 10"),
        ({"init": "random", "heads": 1}, r"students.b.heads: expected a multiple of kv_heads \(2\), got 1"),
        ({"init": "random", "hidden_size": 12}, "students.b.hidden_size / heads: .*even head size"),
        ({"init": "first", "layers": 5}, "students.b.layers: expected at most the teacher's 4 layers, got 5"),
    ],
)
def test_shapes_that_cannot_be_had(tmp_path, student, message):
    with pytest.raises(UserError, match=message) as error:
        check(tmp_path, {}, student)
    assert "students.a" not in str(error.value)


def test_a_shape_that_is_not_run_is_not_checked(tmp_path):
    unused = {"init": "first", "layers": 99, "vocabulary": "full"}
    check(tmp_path, {}, changes=EVERY | {"students": {"unused": unused}})


def test_all_faults_at_once(tmp_path):
    words = {"model": {"type": "WordLevel"}, "decoder": None}
    with pytest.raises(UserError) as error:
        check(
            tmp_path,
            {"layers": 5},
            {"layers": 6},
            tokenizer=words,
            changes={"run": {"shallow": ["truncated-3", "truncated-4"]}},
        )
    text = str(error.value)
    assert "students.a.layers: expected at most the teacher's 4 layers, got 5" in text
    assert "students.b.layers: expected at most the teacher's 4 layers, got 6" in text
    assert "run.shallow: expected fewer than the teacher's 4 layers, got truncated-4" in text
    assert "byte-level BPE" in text and "WordLevel" in text and "students.a.vocabulary: pruned" in text
    assert len(text.splitlines()) == 1 + 5


def test_gpt2_by_its_own_names_is_not_projected(tmp_path):
    config = GPT2Config(n_embd=16, n_layer=3, n_head=4).to_dict()
    check(tmp_path, {}, config=config, changes={"run": {"shallow": ["truncated-2"]}})
    with pytest.raises(UserError, match="the teacher is gpt2"):
        check(tmp_path, {"init": "spaced", "hidden_size": 8}, config=config)
    with pytest.raises(UserError, match="at most the teacher's 3 layers"):
        check(tmp_path, {"layers": 4}, config=config)


def test_the_size_of_each_student_must_be_among_the_truncated_teachers(tmp_path):
    narrow = {"init": "spaced", "hidden_size": 8, "heads": 2, "kv_heads": 1, "intermediate_size": 24, "layers": 3}
    check(tmp_path, {}, narrow, changes={"run": {"shallow": ["truncated-1", "truncated-2"]}})
    with pytest.raises(UserError) as error:
        check(tmp_path, {}, narrow, changes={"run": {"shallow": ["truncated-2", "truncated-3"]}})
    (fault,) = str(error.value).splitlines()[1:]
    assert fault.strip() == (
        "run.shallow: the gate compares the teacher with its first layers in the size of the student b, which is that "
        "of 1 layers: expected truncated-1 among them, got ['truncated-2', 'truncated-3']"
    )


def student(**changes):
    return Student(**{"init": "random", "layers": 2, "vocabulary": "full"} | changes)


HALF = {"hidden_size": 8, "heads": 2, "kv_heads": 1, "intermediate_size": 24}


@pytest.mark.parametrize(
    "asked, size",
    [
        # the teacher's layer: q and o 2 * 16 * 16, k and v half of that, gate, up and down 3 * 16 * 32: 2304
        ({"layers": 3}, 3),
        ({"layers": 4}, 3),  # fewer than the teacher has
        # 2 * 8 * 8 + 8 * 8 + 3 * 8 * 24 = 768, a third of it
        ({"layers": 4, **HALF}, 1),  # 1.33
        ({"layers": 5, **HALF}, 2),  # 1.67
        ({"layers": 1, **HALF}, 1),  # 0.33: at least one
        ({"layers": 99, **HALF}, 3),
        # keys and values as many as queries: 4 * 16 * 16 + 1536 = 2560
        ({"layers": 2, "kv_heads": 4}, 2),  # 2.2
        ({"layers": 2, "intermediate_size": 64}, 3),  # 768 + 3072 = 3840: 3.33
        # four heads of 2: 8 * 8 * 2 + 8 * 4 * 2 + 3 * 8 * 32 = 960
        ({"layers": 3, "hidden_size": 8}, 1),  # 1.25
        # four heads of 4, kept whole: 8 * 16 * 2 + 8 * 8 * 2 + 3 * 8 * 32 = 1152
        ({"layers": 3, "hidden_size": 8, "init": "spaced"}, 2),  # 1.5
    ],
)
def test_the_size_of_a_student_in_layers_of_its_teacher_by_hand(asked, size):
    assert size_in_layers(student(**asked), LLAMA) == size


def test_heads_wider_than_the_stream_divides_count_as_they_are():
    config = LLAMA | {"head_dim": 16}  # 16 * 64 * 2 + 16 * 32 * 2 + 1536 = 4608
    assert size_in_layers(student(layers=3), config) == 2  # its own heads are of 4: 2304
    assert size_in_layers(student(layers=3, init="spaced"), config) == 3


def test_nothing_is_checked_before_there_is_a_teacher(tmp_path):
    check_teacher_fit(given({"students": {"small": {"layers": 99}}}), tmp_path)
