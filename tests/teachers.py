"""Tiny random teachers of every supported architecture, with a tokenizer of their own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

SHAPE = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 160,
}
CONFIGS = {
    "llama": lambda **own: LlamaConfig(**SHAPE, **own),
    "qwen2": lambda **own: Qwen2Config(**SHAPE, **own),
    "qwen3": lambda **own: Qwen3Config(**SHAPE, head_dim=8, **own),
    "mistral": lambda **own: MistralConfig(**SHAPE, **own),
    "gemma": lambda **own: GemmaConfig(**SHAPE, head_dim=4, **own),
    "gemma3": lambda **own: Gemma3TextConfig(
        **SHAPE,
        head_dim=8,
        sliding_window=128,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        **own,
    ),
    "gpt2": lambda **own: GPT2Config(n_embd=16, n_layer=3, n_head=4, n_positions=160, **own),
}
TOKENIZERS = {architecture: ("byte-level",) for architecture in ("llama", "gpt2")}
TOKENIZERS |= {architecture: ("byte-level", "<|endoftext|>") for architecture in ("qwen2", "qwen3")}
TOKENIZERS |= {architecture: ("sentence-pieces",) for architecture in ("mistral", "gemma", "gemma3")}
CORPUS = ["a yes and a no", "the one or the other, yes or no?", *(f"w{i} w{i + 1}" for i in range(13))]


def byte_level(*special: str) -> Tokenizer:
    """As Llama 3, Qwen and GPT-2 have it. ` yes`, ` no`, `yes` and `no` are tokens."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=[*special], initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator([*CORPUS, "yes no"] * 3, trainer)
    return inner


def sentence_pieces() -> Tokenizer:
    """As Llama 2, Mistral and Gemma have it: a space is a letter of the word after it, and one stands before a text."""
    vocab = {"<unk>": 0, "<s>": 1, "</s>": 2} | {f"<0x{byte:02X}>": 3 + byte for byte in range(256)}
    merges = []
    for word in ("▁yes", "▁no", "▁a", "▁w", "▁the"):
        left = word[0]
        for letter in word:
            vocab.setdefault(letter, len(vocab))
        for letter in word[1:]:
            if (left, letter) not in merges:
                merges.append((left, letter))
            left += letter
            vocab.setdefault(left, len(vocab))
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return inner


def fast(kind: str = "byte-level", end: str = "<end>") -> PreTrainedTokenizerFast:
    """Without a token for padding, as Llama 3 and GPT-2 are published."""
    if kind == "byte-level":
        return PreTrainedTokenizerFast(tokenizer_object=byte_level(end), eos_token=end)
    special = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=sentence_pieces(), **special)


def write_teacher(
    folder: Path,
    architecture: str = "llama",
    tokenizer: PreTrainedTokenizerFast | None = None,
    changes: dict[str, Any] | None = None,
    **how: Any,
) -> Path:
    """`changes` to its config.json; `how`: of save_pretrained. Returns `folder`."""
    tokenizer = tokenizer or fast(*TOKENIZERS[architecture])
    torch.manual_seed(0)
    config = CONFIGS[architecture](vocab_size=len(tokenizer), eos_token_id=tokenizer.eos_token_id)
    model = AutoModelForCausalLM.from_config(config, dtype=how.pop("dtype", torch.float32))
    model.save_pretrained(folder, **how)
    tokenizer.save_pretrained(folder)
    change(folder / "config.json", changes or {})
    return folder


def change(file: Path, changes: dict[str, Any]) -> None:
    """Of a JSON file; None takes a key away."""
    found = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({key: value for key, value in found.items() if value is not None}))
