"""Teachers as they come: what is refused, and what is mended and told."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from fisher_ld.config.params import TeacherSource
from fisher_ld.core.errors import UserError
from fisher_ld.fetch.teacher import fetch_teacher
from tests.teachers import CONFIGS, SHAPE, change, fast, write_teacher


@pytest.fixture
def mine(tmp_path):
    return tmp_path / "mine"


@pytest.fixture
def lay(tmp_path, mine):
    """The teacher in `mine`, as it is laid down. `mine` lies in the store, whose files are linked and not copied."""

    def call():
        source = TeacherSource(kind="local", name=str(mine), revision=None)
        fetch_teacher(source, tmp_path / "base", tmp_path, tmp_path / "lock.json")
        return tmp_path / "base"

    return call


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def padding(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.pad_token_id == config_of(folder)["pad_token_id"]
    tokenizer(["w1", "w1 w2"], padding=True)
    return tokenizer.pad_token


@pytest.mark.parametrize(
    ("config", "token"),
    [
        ({"eos_token_id": [7, 0]}, "<end>"),
        ({"pad_token_id": 5}, 5),  # as the config says
        ({"pad_token_id": -1}, "<end>"),
        ({"pad_token_id": 9999}, "<end>"),
    ],
)
def test_a_teacher_without_a_padding_token_is_given_one(lay, mine, capsys, config, token):
    write_teacher(mine, changes=config)
    before = {path.name: path.read_bytes() for path in mine.iterdir()}
    tokenizer = AutoTokenizer.from_pretrained(mine)
    token = token if isinstance(token, str) else tokenizer.convert_ids_to_tokens(token)
    base = lay()
    assert padding(base) == token
    assert config_of(base).get("eos_token_id") == config.get("eos_token_id", 0)
    assert f"mine: the tokenizer has no padding token; {token!r} is taken" in capsys.readouterr().err
    assert before == {path.name: path.read_bytes() for path in mine.iterdir()}
    text = "w1 yes, or no?"
    assert AutoTokenizer.from_pretrained(base)(text).input_ids == tokenizer(text).input_ids


def test_the_first_of_several_ends_pads_where_the_tokenizer_names_none(lay, mine):
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=fast().backend_tokenizer)
    write_teacher(mine, tokenizer=tokenizer, changes={"eos_token_id": [7, 0]})
    assert padding(lay()) == tokenizer.convert_ids_to_tokens(7)


def test_a_teacher_whose_padding_is_known_keeps_its_files(lay, mine, capsys):
    tokenizer = fast()
    tokenizer.pad_token = "<end>"
    write_teacher(mine, tokenizer=tokenizer, changes={"pad_token_id": 0})
    base = lay()
    assert all((base / path.name).samefile(path) for path in mine.iterdir())
    assert "teacher " not in capsys.readouterr().err


def test_a_tokenizer_without_padding_and_end_is_refused(lay, mine):
    words = Tokenizer(models.WordLevel({"yes": 0, "no": 1}, unk_token="no"))
    write_teacher(mine, tokenizer=PreTrainedTokenizerFast(tokenizer_object=words))
    with pytest.raises(UserError, match="expected a token for padding or the end of a text"):
        lay()


def add(folder, **tokens):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens(tokens)
    tokenizer.save_pretrained(folder)


@pytest.mark.parametrize("architecture", ["llama", "gemma3"])
def test_added_tokens_beyond_the_embedding_are_taken_away(lay, mine, capsys, architecture):
    """As Gemma 3 has one for images."""
    write_teacher(mine, architecture)
    text, size = "w1 yes, or no? [PAD]", config_of(mine)["vocab_size"]
    expected = AutoTokenizer.from_pretrained(mine)(text).input_ids
    add(mine, pad_token="[PAD]", additional_special_tokens=["<image>"])
    file = (mine / "tokenizer.json").read_bytes()
    assert max(AutoTokenizer.from_pretrained(mine).get_vocab().values()) == size + 1
    base = lay()
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert max(tokenizer.get_vocab().values()) < size
    assert tokenizer(text).input_ids == expected
    assert padding(base) == ("<end>" if architecture == "llama" else "<unk>")  # which Gemma's config names
    assert f"<image>, [PAD] taken from the tokenizer, for the embedding has {size} rows" in capsys.readouterr().err
    assert (mine / "tokenizer.json").read_bytes() == file


def test_the_tokenizer_of_another_model_is_refused(lay, mine):
    write_teacher(mine)
    fast("sentence-pieces").save_pretrained(mine)
    size = config_of(mine)["vocab_size"]
    state = json.loads((mine / "tokenizer.json").read_text())
    for number in range(5):
        state["model"]["vocab"][f"more{number}"] = size + number
    (mine / "tokenizer.json").write_text(json.dumps(state))
    with pytest.raises(
        UserError, match=rf"ids below the {size} rows of its embedding, got {size + 4}: .* another model's"
    ):
        lay()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model_type": "xyz", "auto_map": {"AutoConfig": "configuration_xyz.XyzConfig"}},
            "transformers knows, got 'xyz'",
        ),
        ({"model_type": None}, "transformers knows, got None"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "config by bitsandbytes"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "config by gptq"),
        ({"quantization_config": {"quant_method": "awq"}}, r"config by awq .*the model that they were made from"),
        ({"quantization_config": {"load_in_8bit": True}}, "config by None"),
        ({"quantization_config": {}}, "config by None"),
        ({"quantization_config": "int4"}, "config by int4"),
        ({"model_type": ["llama"]}, r"transformers knows, got \['llama'\]"),
        ({"num_attention_heads": "four"}, "does not read its config.json .*num_attention_heads"),
        ({"vocab_size": 250}, "config.json and weights may be of two models"),
        ({"num_hidden_layers": 4}, r"none for model.layers.3.input_layernorm.weight, .* \(9 missing\)"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(lay, mine, tmp_path, changes, message):
    write_teacher(mine, changes=changes)
    with pytest.raises(UserError, match=message):
        lay()
    assert not (tmp_path / "base").exists()


def test_code_that_is_not_needed_is_left_out(lay, mine):
    """Many models whose architecture transformers knows by now still name code of their own."""
    write_teacher(mine, changes={"auto_map": {"AutoConfig": "configuration_llama.LlamaConfig"}})
    (mine / "configuration_llama.py").write_text("raise SystemExit")
    base = lay()
    assert not list(base.glob("*.py"))
    assert AutoModelForCausalLM.from_pretrained(base).config.model_type == "llama"


def test_a_tokenizer_with_code_of_its_own_is_refused_without_a_question(lay, mine, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("asked whether to run it"))
    write_teacher(mine)
    auto_map = {"AutoTokenizer": ["tokenization_xyz.XyzTokenizer", None]}
    change(mine / "tokenizer_config.json", {"auto_map": auto_map, "tokenizer_class": "XyzTokenizer"})
    with pytest.raises(UserError, match=r"does not load its tokenizer \(.*contains custom code.*is never run"):
        lay()


def test_a_slow_tokenizer_is_refused(lay, mine):
    write_teacher(mine)
    (mine / "tokenizer.json").unlink()
    with pytest.raises(
        UserError, match=r"expected a fast tokenizer \(tokenizer.json\), got .*pip install sentencepiece"
    ):
        lay()
    (mine / "vocab.json").write_text(json.dumps({"<unk>": 0, "a</w>": 1}))
    (mine / "merges.txt").write_text("#version: 0.2\n")
    change(mine / "tokenizer_config.json", {"tokenizer_class": "CTRLTokenizer"})
    with pytest.raises(UserError, match="expected a fast tokenizer, got the slow CTRLTokenizer"):
        lay()


def test_a_multimodal_model_is_refused(lay, mine):
    text = SHAPE | {"vocab_size": 300, "head_dim": 4}
    vision = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Gemma3Config(text_config=text, vision_config=vision | {"image_size": 28, "patch_size": 14})
    Gemma3ForConditionalGeneration(config).save_pretrained(mine)
    fast().save_pretrained(mine)
    with pytest.raises(UserError, match="expected a text model, got the multimodal gemma3: take the text-only model"):
        lay()


def test_an_adapter_is_refused(lay, mine):
    write_teacher(mine)
    (mine / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match=r"got an adapter .*merge_and_unload"):
        lay()


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (AutoModel, r"none for lm_head.weight \(1 missing\): take a model with its language modelling head"),
        (AutoModelForSequenceClassification, "none for lm_head.weight"),
    ],
)
def test_a_model_without_its_head_is_refused(lay, mine, kind, message):
    write_teacher(mine)
    kind.from_config(CONFIGS["llama"](vocab_size=len(fast()))).save_pretrained(mine)
    with pytest.raises(UserError, match=message):
        lay()


@pytest.mark.parametrize("sharded", [True, False])
def test_weights_that_are_there_twice_are_taken_once(lay, mine, capsys, sharded):
    write_teacher(mine, **({"max_shard_size": "10KB"} if sharded else {}))
    weights = {path.name for path in mine.glob("*.safetensors")}
    for name in ("consolidated.safetensors", "model.fp16.safetensors"):
        shutil.copyfile(mine / min(weights), mine / name)
    base = lay()
    assert {path.name for path in base.glob("*.safetensors")} == weights
    taken = "the files that model.safetensors.index.json names" if sharded else "model.safetensors"
    expected = f"consolidated.safetensors, model.fp16.safetensors left out; the weights are in {taken}"
    assert expected in capsys.readouterr().err


def test_one_file_goes_before_an_index_that_another_save_has_left(lay, mine):
    write_teacher(mine)
    index = {"weight_map": {"lm_head.weight": "model-00001-of-00002.safetensors"}}
    (mine / "model.safetensors.index.json").write_text(json.dumps(index))
    assert [path.name for path in lay().glob("*.safetensors")] == ["model.safetensors"]


@pytest.mark.parametrize("places", [[], {}, None, {"lm_head.weight": 1}])
def test_an_index_that_names_no_files_is_refused(lay, mine, places):
    write_teacher(mine, max_shard_size="10KB")
    change(mine / "model.safetensors.index.json", {"weight_map": places})
    with pytest.raises(UserError, match=r"expected a weight_map in model.safetensors.index.json, .* fetch it again"):
        lay()


def test_a_tokenizer_of_several_files_is_written_as_one(lay, mine, capsys):
    """Which preprocess reads."""
    write_teacher(mine, "gpt2", tokenizer=fast("byte-level", "<|endoftext|>"))
    expected = AutoTokenizer.from_pretrained(mine)("w1 yes, or no?").input_ids
    model = json.loads((mine / "tokenizer.json").read_text())["model"]
    (mine / "tokenizer.json").unlink()
    (mine / "vocab.json").write_text(json.dumps(model["vocab"]))
    (mine / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in model["merges"]))
    change(mine / "tokenizer_config.json", {"tokenizer_class": "GPT2Tokenizer"})
    base = lay()
    assert AutoTokenizer.from_pretrained(base)("w1 yes, or no?").input_ids == expected
    assert Tokenizer.from_file(str(base / "tokenizer.json")).encode("w1 yes, or no?").ids == expected
    assert "mine: tokenizer.json is made of vocab.json and merges.txt" in capsys.readouterr().err


def test_what_is_accepted_is_the_teacher_as_it_was_mended(tmp_path, mine):
    write_teacher(mine)
    add(mine, additional_special_tokens=["<yes>"])
    seen = []
    source = TeacherSource(kind="local", name=str(mine), revision=None)
    accept = lambda config, tokenizer: seen.append("<yes>" in tokenizer.get_vocab())  # noqa: E731
    fetch_teacher(source, tmp_path / "base", tmp_path, tmp_path / "lock.json", accept)
    assert seen == [True, False]


def test_fp8_is_dequantised(lay, mine, capsys):
    """By blocks, as DeepSeek and Qwen publish it."""
    write_teacher(mine)
    exact, found = load_file(mine / "model.safetensors"), {}
    for name, weight in exact.items():
        found[name] = weight.bfloat16()
        if "proj" in name:
            scale = weight.abs().max() / 448
            found[name], found[f"{name}_scale_inv"] = (weight / scale).to(torch.float8_e4m3fn), scale.view(1, 1)
    save_file(found, mine / "model.safetensors", metadata={"format": "pt"})
    quantised = {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic", "fmt": "e4m3"}
    change(mine / "config.json", {"quantization_config": quantised})
    base = lay()
    assert "quantization_config" not in config_of(base)
    assert load_file(base / "model.safetensors").keys() == exact.keys()
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    for name, weight in exact.items():
        torch.testing.assert_close(model.state_dict()[name], weight, rtol=0.07, atol=1e-3)
    assert "its FP8 weights are dequantised" in capsys.readouterr().err
