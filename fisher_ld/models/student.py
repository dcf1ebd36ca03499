"""What students start from, and how scorers are saved."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, LlamaConfig, PreTrainedTokenizerBase

from fisher_ld.config.params import Prompt, Student
from fisher_ld.config.teacher_fit import WIDTHS, widths
from fisher_ld.core import ranks
from fisher_ld.core.files import atomic_path, write_json
from fisher_ld.models.projection import principal_directions, project
from fisher_ld.models.scorer import Scorer, answering
from fisher_ld.models.sharded import whole_state
from fisher_ld.models.vocabulary import prune


def layers_taken(init: str, teacher_layers: int, student_layers: int) -> list[int]:
    """The teacher layers (from 0) that a student starts from: the first ones, or evenly spaced ones that end with
    the last: ceil(m * L_T / L_S) for m = 1..L_S, counted from 1 (7 of 30: 5, 9, 13, 18, 22, 26, 30)."""
    if init == "first":
        return list(range(student_layers))
    return [math.ceil(m * teacher_layers / student_layers) - 1 for m in range(1, student_layers + 1)]


def _config(teacher: Any, student: Student, rows: np.ndarray | None, tokenizer: PreTrainedTokenizerBase) -> Any:
    """The student's config from the teacher's: the same architecture, but Llama where the start is random."""
    asked, own = widths(student, teacher.to_dict())
    config: Any = copy.deepcopy(teacher)
    if student.init == "random" and teacher.model_type != "llama":
        config = LlamaConfig(vocab_size=teacher.vocab_size, max_position_embeddings=teacher.max_position_embeddings)
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            setattr(config, name, getattr(teacher, name, None))
    if asked != own or type(config) is not type(teacher):
        for name, key in WIDTHS.items():
            setattr(config, key, asked[name])
        if student.init == "random":
            config.head_dim = asked["hidden_size"] // asked["heads"]
        else:  # heads are kept whole
            config.head_dim = getattr(teacher, "head_dim", None) or own["hidden_size"] // own["heads"]
    config.num_hidden_layers = student.layers
    answering(config)
    if rows is not None:
        _set_vocabulary(config, len(rows), tokenizer)
    return config


def build_student(
    teacher: Scorer,
    student: Student,
    tokenizer: PreTrainedTokenizerBase,
    texts: list[str],
    seed: int,
    state_samples: torch.Tensor | None = None,
) -> tuple[Scorer, PreTrainedTokenizerBase]:
    """A scorer of the asked shape and its tokenizer. `texts`: every piece of text that a prompt is made of, which a
    pruned vocabulary keeps. `state_samples` (n, d_T), n >= d_S: hidden states of the teacher, needed only for
    init: spaced at a smaller hidden_size. The shape is one that `check_teacher_fit` passes; raises UserError without
    enough states, or for a vocabulary that cannot be pruned."""
    source = teacher.model.config
    taken = [] if student.init == "random" else layers_taken(student.init, len(teacher.layers), student.layers)
    rows = None
    if student.vocabulary == "pruned":
        tokenizer, rows = prune(tokenizer, texts)
    config = _config(source, student, rows, tokenizer)
    if taken and getattr(config, "layer_types", None):
        config.layer_types = [source.layer_types[i] for i in taken]

    torch.manual_seed(seed)
    model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
    made = Scorer(model)
    if not taken:
        return made.eval(), tokenizer

    layers = [{k: v.float().cpu() for k, v in teacher.layers[i].state_dict().items()} for i in taken]
    body, names = teacher.body, ("layers.", "h.")
    whole = body.state_dict().items()
    outer = {k: v.float().cpu() for k, v in whole if not k.startswith(names)}  # embeddings, final norm
    score = {k: v.float().cpu() for k, v in teacher.model.score.state_dict().items()}
    embedding = next(name for name, module in body.named_modules() if module is body.get_input_embeddings())
    if rows is not None:
        outer[f"{embedding}.weight"] = outer[f"{embedding}.weight"][torch.from_numpy(rows)]  # (V_S, d_T)
    if any(getattr(config, key, None) != getattr(source, key, None) for key in WIDTHS.values()):
        basis = None
        if config.hidden_size < source.hidden_size:
            basis = principal_directions(state_samples, source.hidden_size, config.hidden_size)  # (d_T, d_S)
        layers, outer, score = project(layers, outer, score, source, config, basis)
    for own, weights in zip(made.layers, layers, strict=True):
        own.load_state_dict(weights)
    missing, unexpected = made.body.load_state_dict(outer, strict=False)
    if unexpected or not all(name.startswith(names) for name in missing):
        raise RuntimeError(f"the student's body does not match the teacher's: {unexpected}, {missing}")
    model.score.load_state_dict(score)
    return made.eval(), tokenizer


def prune_vocabulary(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, texts: list[str]) -> PreTrainedTokenizerBase:
    """Cuts the embedding of a scorer down to what `texts` need, in place, and its tokenizer. Raises UserError for a
    vocabulary that cannot be pruned."""
    pruned, rows = prune(tokenizer, texts)
    embedding, config = scorer.body.get_input_embeddings(), scorer.model.config
    embedding.weight = torch.nn.Parameter(embedding.weight.detach()[torch.from_numpy(rows)])
    embedding.num_embeddings, embedding.padding_idx = len(rows), None
    _set_vocabulary(config, len(rows), pruned)
    return pruned


def _set_vocabulary(config: Any, size: int, tokenizer: PreTrainedTokenizerBase) -> None:
    config.vocab_size = size
    for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
        setattr(config, name, getattr(tokenizer, name))


def initialised_anew(start: Scorer, seed: int) -> Scorer:
    """A scorer of the shape of `start` with random weights of this seed."""
    torch.manual_seed(seed)
    config = start.model.config
    return Scorer(AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)).eval()


def prompt_texts(texts: list[str], prompt: Prompt) -> list[str]:
    """Every piece of text that prompts over items with these texts are made of."""
    pieces = [template.format(text=text) for template in (prompt.history, prompt.candidate) for text in texts]
    return [prompt.prefix, *pieces]


def save(scorer: Scorer, tokenizer: PreTrainedTokenizerBase, prompt: Prompt, folder: Path) -> None:
    """A folder that `AutoModelForSequenceClassification.from_pretrained` and `AutoTokenizer.from_pretrained` load:
    safetensors, config, tokenizer, and prompt.json with the template that the model was trained on."""
    state = whole_state(scorer.model)
    if not ranks.leader():
        return
    with atomic_path(folder) as temporary:
        scorer.model.save_pretrained(temporary, state_dict=state)
        tokenizer.save_pretrained(temporary)
        write_json(temporary / "prompt.json", prompt.model_dump())
