"""What the parameters ask of the teacher, compared with its config and tokenizer before any work starts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from fisher_ld.config.params import Params, Student
from fisher_ld.config.paths import kind_and_depth, truncated
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json

WIDTHS = {
    "hidden_size": "hidden_size",
    "intermediate_size": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
}  # params.students -> transformers' config
GPT2 = {
    "num_hidden_layers": "n_layer",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_attention_heads": "n_head",
}  # its own names for them
PROJECTABLE = ("llama", "mistral", "qwen2")  # RMSNorm with a plain weight, separate q, k, v, gate, up


def check_teacher_fit(params: Params, folder: Path) -> None:
    """Raises UserError with every fault of depth, widths and vocabulary that the config and tokenizer of the teacher
    in `folder` show. Where there is none yet, or one that names its shape in another way, nothing is checked here."""
    if not (folder / "config.json").is_file():
        return
    config = read_json(folder / "config.json")
    if not all(_of(config, name) for name in ("num_hidden_layers", "hidden_size", "num_attention_heads")):
        return
    faults = list(_shallow(params, config))
    for name in params.run.students:
        faults += [f"students.{name}.{fault}" for fault in _student(params.students[name], config, folder)]
    if faults:
        raise UserError("the parameters do not fit the teacher:\n" + "\n".join(f"  {fault}" for fault in faults))


def check_shape(student: Student, folder: Path) -> None:
    """Raises UserError where a pretrained student in `folder` is not of the shape that its params state."""
    config = read_json(folder / "config.json")
    _, own = widths(student, config)
    own["layers"] = _of(config, "num_hidden_layers")
    if wrong := {name: value for name, value in own.items() if getattr(student, name) != value}:
        stated = ", ".join(f"{name}: {value}" for name, value in wrong.items())
        raise UserError(f"students: the pretrained model has another shape than params.yaml states: set {stated}")


def _shallow(params: Params, config: dict[str, Any]) -> Iterator[str]:
    depth = _of(config, "num_hidden_layers")
    for asked in params.run.shallow:
        if kind_and_depth(asked)[1] >= depth:
            yield f"run.shallow: expected fewer than the teacher's {depth} layers, got {asked}"
    for name in params.run.students:
        size = size_in_layers(params.students[name], config)
        if truncated(size) not in params.run.shallow:
            yield (
                f"run.shallow: the gate compares the teacher with its first layers in the size of the student {name}, "
                f"which is that of {size} layers: expected {truncated(size)} among them, got {params.run.shallow}"
            )


def size_in_layers(student: Student, config: dict[str, Any]) -> int:
    """How many of the teacher's layers have about as many parameters as the student's, embeddings apart: at least 1,
    and fewer than the teacher has. `config`: the teacher's."""
    asked, own = widths(student, config)
    size = config.get("head_dim") or own["hidden_size"] // own["heads"]
    cut = student.init in ("random", "pretrained")  # else heads stay whole
    asked_size = asked["hidden_size"] // asked["heads"] if cut else size
    layers = round(student.layers * _layer_parameters(asked, asked_size) / _layer_parameters(own, size))
    return max(1, min(layers, _of(config, "num_hidden_layers") - 1))


def _layer_parameters(shape: dict[str, int], head_size: int) -> int:
    """Of one gated layer, matrices alone."""
    heads = shape["heads"] + shape["kv_heads"]
    return shape["hidden_size"] * (2 * heads * head_size + 3 * shape["intermediate_size"])


def _student(student: Student, config: dict[str, Any], folder: Path) -> Iterator[str]:
    """What does not fit, each fault beginning with its key."""
    if student.init == "pretrained":
        return
    depth, tokenizer = _of(config, "num_hidden_layers"), folder / "tokenizer.json"
    if student.layers > depth:
        yield f"layers: expected at most the teacher's {depth} layers, got {student.layers}"
    yield from _widths(student, config)
    if student.vocabulary == "pruned" and tokenizer.is_file():
        yield from not_byte_level(read_json(tokenizer))


def _of(config: dict[str, Any], name: str) -> Any:
    return config.get(name) or config.get(GPT2.get(name, name))


def widths(student: Student, config: dict[str, Any]) -> tuple[dict[str, int], dict[str, int]]:
    """The student's and the teacher's widths, by their names in params.students."""
    own = {name: _of(config, key) for name, key in WIDTHS.items()}
    own["kv_heads"] = own["kv_heads"] or own["heads"]
    own["intermediate_size"] = own["intermediate_size"] or 4 * own["hidden_size"]
    return {name: getattr(student, name) or own[name] for name in WIDTHS}, own


def _widths(student: Student, config: dict[str, Any]) -> Iterator[str]:
    asked, own = widths(student, config)
    for whole, part in (("hidden_size", "heads"), ("heads", "kv_heads")):
        if asked[whole] % asked[part]:
            yield (
                f"{whole}: expected a multiple of {part} ({asked[part]}), got {asked[whole]} "
                "(one that is not given is the teacher's)"
            )
    size = asked["hidden_size"] // asked["heads"]
    if student.init == "random" and size % 2:
        yield (
            "hidden_size / heads: rotary positions need an even head size, got "
            f"{asked['hidden_size']} / {asked['heads']} = {size}"
        )
    if student.init == "random" or asked == own:
        return
    if config["model_type"] not in PROJECTABLE:
        yield (
            f"init: spaced at a smaller width knows the weights of {', '.join(PROJECTABLE)}, the teacher is "
            f"{config['model_type']}; leave the student's widths out, or set init: random"
        )
    for name, value in asked.items():
        if value > own[name]:
            yield (
                f"{name}: init: spaced cuts the teacher's weights down, so expected at most {own[name]}, got "
                f"{value}; lower it, or set init: random"
            )
    if asked["heads"] // asked["kv_heads"] > own["heads"] // own["kv_heads"]:
        yield (
            f"heads / kv_heads: expected at most the teacher's {own['heads']} / {own['kv_heads']} for "
            f"init: spaced, got {asked['heads']} / {asked['kv_heads']}; raise kv_heads or lower heads"
        )


def not_byte_level(tokenizer: dict[str, Any]) -> list[str]:
    """Why the vocabulary of a tokenizer (its tokenizer.json) cannot be pruned; nothing if it can."""
    kind, decoder = (tokenizer.get("model") or {}).get("type"), (tokenizer.get("decoder") or {}).get("type")
    if (kind, decoder) == ("BPE", "ByteLevel"):
        return []
    return [
        "vocabulary: pruned needs a byte-level BPE tokenizer of the tokenizers library, the teacher's is "
        f"{kind} with the decoder {decoder}; set vocabulary: full"
    ]
