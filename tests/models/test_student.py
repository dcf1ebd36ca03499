"""Student initialisation, on a tiny byte-level BPE and a tiny random teacher."""

import copy
from operator import attrgetter

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GPT2Config,
    LlamaConfig,
)

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import pack
from fisher_ld.batches.prompts import Prompts, read_template
from fisher_ld.config.params import Prompt, Student
from fisher_ld.core.errors import UserError
from fisher_ld.models.projection import principal_directions, project
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.student import build_student, layers_taken, prompt_texts, save

SEEN = ["the story of a toy", "toy story two", "another story\n"]
PROMPT = Prompt(prefix="p", history="{text};", candidate="{text}?")


def shape(**given) -> Student:
    return Student(**{"init": "first", "vocabulary": "pruned"} | given)


@pytest.fixture(scope="module")
def teacher(tokenizer):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, num_labels=2, **sizes)
    config.pad_token_id = tokenizer.pad_token_id
    return Scorer(AutoModelForSequenceClassification.from_config(config).eval())


def packed(tokenizer):
    """Two ragged lists of two users over SEEN as items."""
    pieces = [tokenizer(text, add_special_tokens=False).input_ids for text in SEEN]
    lists = Lists(
        user=np.array([0, 1]),
        start=np.array([0, 0]),
        position=np.array([3, 1]),
        positive=np.array([0, 1]),
        candidates=[np.array([0, 1, 2]), np.array([2, 0])],
        offsets=np.array([0, 3, 5]),
        sequences=[np.array([2, 0, 1, 0]), np.array([1, 2])],
    )
    return pack(lists, lists.windows(), Prompts(pieces[1], pieces, pieces), 256)


def test_all_layers_and_pruned_words_are_the_teacher(teacher, tokenizer):
    student, own = build_student(teacher, shape(layers=4), tokenizer, SEEN, seed=1)
    assert len(own) < len(tokenizer)
    ours, states = attrgetter("logits", "states")(student(packed(own), with_states=True))
    theirs, teacher_states = attrgetter("logits", "states")(teacher(packed(tokenizer), with_states=True))
    assert torch.equal(ours, theirs) and torch.equal(states, teacher_states)


def test_weights_are_copies(teacher, tokenizer):
    student, _ = build_student(teacher, shape(layers=2, vocabulary="full"), tokenizer, SEEN, seed=1)
    before = teacher.layers[0].mlp.up_proj.weight.clone()
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.zero_()
    assert torch.equal(teacher.layers[0].mlp.up_proj.weight, before)


def test_layers_taken():
    assert layers_taken("first", 30, 3) == [0, 1, 2]
    assert layers_taken("spaced", 30, 3) == [9, 19, 29]


def test_random_is_seeded_and_has_its_own_shape(teacher, tokenizer):
    asked = shape(init="random", layers=2, hidden_size=8, intermediate_size=12, heads=2, kv_heads=1)
    first, again = (build_student(teacher, asked, tokenizer, SEEN, seed=5)[0] for _ in range(2))
    other = build_student(teacher, asked, tokenizer, SEEN, seed=6)[0]
    assert first.model.config.hidden_size == 8 and len(first.layers) == 2
    assert torch.equal(first.layers[1].mlp.up_proj.weight, again.layers[1].mlp.up_proj.weight)
    assert not torch.equal(first.layers[1].mlp.up_proj.weight, other.layers[1].mlp.up_proj.weight)


def test_random_start_is_llama_whatever_the_teacher(tokenizer):
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=4, num_labels=2, pad_token_id=0)
    other = Scorer(AutoModelForSequenceClassification.from_config(config))
    student, own = build_student(other, shape(init="random", layers=3), tokenizer, SEEN, seed=0)
    assert type(student.model).__name__ == "LlamaForSequenceClassification"
    assert student.model.config.vocab_size == len(own) and len(student.layers) == 3
    assert torch.isfinite(student(packed(own)).logits).all()


def test_spaced_takes_the_layers_it_says(teacher, tokenizer):
    student, _ = build_student(teacher, shape(init="spaced", layers=2), tokenizer, SEEN, seed=0)
    for own, source in zip(student.layers, (teacher.layers[1], teacher.layers[3]), strict=True):
        assert torch.equal(own.mlp.up_proj.weight, source.mlp.up_proj.weight)


@pytest.fixture
def rough(teacher):
    """A copy of the teacher with uneven norms and no epsilon, so that projections can be exact."""
    rough = copy.deepcopy(teacher)
    torch.manual_seed(3)
    for name, parameter in rough.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.2, 2)
        else:
            parameter.data.normal_(0, 0.3)
    for module in rough.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon = 1e-12
    rough.model.config.rms_norm_eps = 1e-12
    return rough


def same_answers(rough, tokenizer, asked, samples=None):
    student, own = build_student(rough, asked, tokenizer, SEEN, seed=0, state_samples=samples)
    torch.testing.assert_close(student(packed(own)).logits, rough(packed(tokenizer)).logits, rtol=1e-3, atol=1e-4)
    return student


def test_projection_is_exact_where_the_stream_is_narrow(rough, tokenizer):
    """All that is written to the stream lies in 8 of 16 dimensions: a student of width 8 loses nothing."""
    torch.manual_seed(4)
    base = torch.linalg.qr(torch.randn(16, 8)).Q  # (16, 8)
    inside = base @ base.T
    rough.body.embed_tokens.weight.data @= inside
    for layer in rough.layers:
        for linear in (layer.self_attn.o_proj, layer.mlp.down_proj):
            linear.weight.data = inside @ linear.weight.data
    samples = rough(packed(tokenizer), with_states=True).states.flatten(0, 1).detach()
    asked = shape(init="spaced", layers=4, hidden_size=8)
    student = same_answers(rough, tokenizer, asked, samples)
    assert student.model.config.hidden_size == 8 and student.model.config.head_dim == 4


def test_a_rotation_of_the_whole_stream_changes_nothing(rough, tokenizer):
    student, own = build_student(rough, shape(init="spaced", layers=4), tokenizer, SEEN, seed=0)
    basis = principal_directions(torch.randn(40, 16), 16, 16)
    config = student.model.config
    layers = [layer.state_dict() for layer in student.layers]
    outer = {k: v for k, v in student.body.state_dict().items() if not k.startswith("layers.")}
    layers, outer, score = project(layers, outer, student.model.score.state_dict(), config, config, basis)
    before = student(packed(own)).logits.detach()
    for layer, weights in zip(student.layers, layers, strict=True):
        layer.load_state_dict(weights)
    student.body.load_state_dict(outer, strict=False)
    student.model.score.load_state_dict(score)
    torch.testing.assert_close(student(packed(own)).logits, before, rtol=1e-3, atol=1e-4)


def test_silent_neurons_are_the_ones_dropped(rough, tokenizer):
    for layer in rough.layers:
        layer.mlp.down_proj.weight.data[:, torch.randperm(24)[:12]] = 0
    same_answers(rough, tokenizer, shape(init="spaced", layers=4, intermediate_size=12))


@pytest.mark.parametrize(
    ("silent", "heads", "kv_heads"), [([0, 1], 2, 1), ([2, 3], 2, 1), ([0, 3], 2, 2), ([0, 1, 3], 1, 1)]
)
def test_silent_heads_are_the_ones_dropped(rough, tokenizer, silent, heads, kv_heads):
    for layer in rough.layers:
        for head in silent:
            layer.self_attn.o_proj.weight.data[:, head * 4 : head * 4 + 4] = 0
    student = same_answers(rough, tokenizer, shape(init="spaced", layers=4, heads=heads, kv_heads=kv_heads))
    assert student.layers[0].self_attn.k_proj.weight.shape == (4 * kv_heads, 16)


def test_a_narrower_student_needs_states_of_the_teacher(teacher, tokenizer):
    with pytest.raises(UserError, match="takes at least 8 of its hidden states"):
        build_student(teacher, shape(init="spaced", layers=2, hidden_size=8), tokenizer, SEEN, seed=0)


def test_saved_student_loads_in_one_line(teacher, tokenizer, tmp_path):
    student, own = build_student(teacher, shape(layers=2), tokenizer, SEEN, seed=0)
    save(student, own, PROMPT, tmp_path / "student")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "student")
    loaded = AutoTokenizer.from_pretrained(tmp_path / "student")
    batch = loaded(["toy", "the story of a toy"], return_tensors="pt", padding=True)
    expected = student.model(**own("the story of a toy", return_tensors="pt")).logits
    torch.testing.assert_close(model(**batch).logits[1:], expected)
    shorter = student.model(**own("toy", return_tensors="pt")).logits  # the padded row is pooled at its own end
    torch.testing.assert_close(model(**batch).logits[:1], shorter)
    assert model.config.id2label == {0: "no", 1: "yes"}
    assert 0 <= model.config.pad_token_id < model.config.vocab_size
    assert (tmp_path / "student" / "model.safetensors").is_file()
    assert read_template(tmp_path / "student") == PROMPT


def test_prompt_texts_name_every_piece():
    assert prompt_texts(["A", "B"], PROMPT) == ["p", "A;", "B;", "A?", "B?"]
