"""The student: its shape, its initialisation, and how scorers are saved."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerBase

from fisher_ld.models.scorer import Scorer
from fisher_ld.models.vocabulary import prune
from fisher_ld.params import Prompt, Student
from fisher_ld.runtime import UserError, atomic_path, write_json

WIDTHS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}  # params.student -> transformers' config


def layers_taken(init: str, teacher_layers: int, student_layers: int) -> list[int]:
    """The teacher layers (from 0) that a student starts from: the first ones, or evenly spaced ones that end with
    the last: ceil(m * L_T / L_S) for m = 1..L_S, counted from 1."""
    if student_layers > teacher_layers:
        raise UserError(
            f"student.layers: expected at most the teacher's {teacher_layers} layers for init: {init}, got "
            f"{student_layers}; lower it, or set student.init: random"
        )
    if init == "first":
        return list(range(student_layers))
    return [math.ceil(m * teacher_layers / student_layers) - 1 for m in range(1, student_layers + 1)]


def build_student(
    teacher: Scorer, student: Student, tokenizer: PreTrainedTokenizerBase, texts: list[str], seed: int
) -> tuple[Scorer, PreTrainedTokenizerBase]:
    """A scorer of the asked shape and its tokenizer. `texts`: every piece of text that a prompt is made of, which a
    pruned vocabulary keeps. Raises UserError for a shape that cannot be had."""
    config = copy.deepcopy(teacher.model.config)
    asked = {name: getattr(student, name) for name in WIDTHS}
    changed = {name: value for name, value in asked.items() if value not in (None, getattr(config, WIDTHS[name]))}
    if changed and student.init != "random":
        raise UserError(
            f"student.init: {student.init} starts from the teacher's layers at full width, but "
            f"{', '.join(f'student.{name} is {value}' for name, value in changed.items())}; set these to null, or "
            "student.init: random"
        )
    for name, value in changed.items():
        setattr(config, WIDTHS[name], value)
    if changed:
        config.head_dim = config.hidden_size // config.num_attention_heads
    config.num_hidden_layers = student.layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[: student.layers]

    rows = None
    if student.vocabulary == "pruned":
        tokenizer, rows = prune(tokenizer, texts)
        config.vocab_size = len(rows)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(tokenizer, name))
    if config.pad_token_id is None:
        config.pad_token_id = config.eos_token_id

    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    made = Scorer(model)
    if student.init != "random":
        taken = layers_taken(student.init, len(teacher.layers), student.layers)
        for own, source in zip(made.layers, (teacher.layers[i] for i in taken), strict=True):
            own.load_state_dict(source.state_dict())
        head = {n: p for n, p in teacher.body.state_dict().items() if n.split(".")[0] not in ("layers", "h")}
        embedding = next(n for n, m in teacher.body.named_modules() if m is teacher.body.get_input_embeddings())
        if rows is not None:
            head[f"{embedding}.weight"] = head[f"{embedding}.weight"][torch.from_numpy(rows)]
        made.body.load_state_dict(head, strict=False)
        model.score.load_state_dict(teacher.model.score.state_dict())
    return made.eval(), tokenizer


def prompt_texts(texts: list[str], prompt: Prompt) -> list[str]:
    """Every piece of text that prompts over items with these texts are made of."""
    pieces = [template.replace("{text}", text) for template in (prompt.history, prompt.candidate) for text in texts]
    return [prompt.prefix, prompt.yes, prompt.no, *pieces]


def save(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, folder: Path) -> None:
    """A folder that `AutoModelForSequenceClassification.from_pretrained` and `AutoTokenizer.from_pretrained` load:
    safetensors, config, tokenizer, and prompt.json with the template that the model was trained on."""
    with atomic_path(folder) as temporary:
        scorer.model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "prompt.json", prompt.model_dump())
