"""A teacher's files as they come: refused in a sentence, or mended in the copy that is taken over, which is told."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, cast

from fisher_ld.core.errors import ANOTHER, UserError
from fisher_ld.core.files import write_json
from fisher_ld.core.progress import say

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
FP8 = "fp8"  # dequantised by transformers alone; other methods need libraries of their own


def tell(name: str, text: str) -> None:
    say(f"teacher {name}: {text}")


def weight_files(folder: Path, names: Collection[str], name: str) -> set[str]:
    """Those of the files `names` of a model that hold its weights, as transformers chooses: one, else the shards of an
    index, which lies in `folder`. Others hold the same weights once more. Raises UserError where one is missing."""
    single = SINGLE in names or INDEX not in names
    weights = {SINGLE} if single else _shards(folder / INDEX, name)
    if missing := weights - set(names):
        raise UserError(
            f"teacher {name}: expected the weights {_listed(missing)}, got {_listed(names)}. Other formats can run "
            "code when they are loaded: save the model with save_pretrained, which writes safetensors, and run again."
        )
    if more := {file for file in names if file.endswith(".safetensors")} - weights:
        tell(
            name,
            f"{_listed(more)} left out; the weights are in {SINGLE if single else f'the files that {INDEX} names'}",
        )
    return weights


def _shards(index: Path, name: str) -> set[str]:
    places = read(index, name).get("weight_map")
    if not isinstance(places, dict) or not places or not all(isinstance(file, str) for file in places.values()):
        raise UserError(
            f"teacher {name}: expected a weight_map in {INDEX}, from names of weights to files, got "
            f"{str(places)[:60]!r}; fetch it again."
        )
    return set(places.values())


def check_config(folder: Path, name: str) -> Any:
    """The config of the model in `folder`, whose weights need not be there yet. Raises UserError for what is no plain
    text model that transformers has the code of."""
    from transformers import CONFIG_MAPPING, AutoConfig

    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "config.json" not in names:
        got = _listed(names) if folder.is_dir() else f"the file {folder.name}" if folder.exists() else "nothing"
        raise UserError(f"teacher {name}: expected a folder with config.json, got {got}.")
    if "adapter_config.json" in names:
        raise UserError(
            f"teacher {name}: expected a whole model, got an adapter (adapter_config.json): merge it into its model "
            "(merge_and_unload), save both with save_pretrained, and name that folder."
        )
    found = read(folder / "config.json", name)
    kind, quantised = found.get("model_type"), found.get("quantization_config")
    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        raise UserError(
            f"teacher {name}: expected a model_type that transformers knows, got {kind!r} in config.json; code that "
            f"comes with a model is never run: {ANOTHER}."
        )
    method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
    if quantised is not None and method != FP8:
        raise UserError(
            f"teacher {name}: expected weights that are not quantised, got quantization_config by {method} in "
            "config.json, which cannot be adapted: take the model that they were made from."
        )
    try:
        config = AutoConfig.from_pretrained(folder)
    except Exception as error:  # whatever the class of this model_type says of its keys
        raise UserError(f"teacher {name}: transformers does not read its config.json ({_said(error)}).") from error
    if config.get_text_config() is not config:
        raise UserError(
            f"teacher {name}: expected a text model, got the multimodal {kind}: take the text-only model of its "
            "family, or save its language model alone."
        )
    return config


def check_tokenizer(folder: Path, name: str) -> Any:
    """The tokenizer of the model in `folder`. Raises UserError where it is missing, or none that is fast."""
    from transformers import AutoTokenizer

    names = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise UserError(
            f"teacher {name}: expected a fast tokenizer (tokenizer.json), got {_listed(names)}. Save the model's "
            "tokenizer to the same folder and run it again: AutoTokenizer.from_pretrained(...).save_pretrained(...) "
            "writes it, where it has a tokenizer.model after pip install sentencepiece."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its class says
        raise UserError(
            f"teacher {name}: transformers does not load its tokenizer ({_said(error)}); code that comes with a model "
            "is never run: take a teacher whose tokenizer transformers knows."
        ) from error
    if not tokenizer.is_fast:
        raise UserError(
            f"teacher {name}: expected a fast tokenizer, got the slow {type(tokenizer).__name__}: take a teacher whose "
            "tokenizer the tokenizers library has."
        )
    return tokenizer


def check_files(folder: Path, name: str) -> set[str]:
    """The weight files of `folder`. Raises UserError where they are missing or damaged."""
    weights = weight_files(folder, {path.name for path in folder.iterdir()}, name)
    for weight in weights:
        _check_safetensors(folder / weight, name)
    return weights


def check_weights(folder: Path, name: str) -> int:
    """The rows of the embedding of the causal language model in `folder`. Raises UserError where its weights are not
    those that the config describes; they are compared by name and shape, and not read."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    config.pad_token_id = None  # which `mend_tokens` sets
    how: dict[str, Any] = {"config": config, "device_map": "meta", "output_loading_info": True}
    try:
        model, info = cast("tuple[Any, Any]", AutoModelForCausalLM.from_pretrained(folder, **how))
    except Exception as error:  # whatever the class of this model_type says
        raise UserError(
            f"teacher {name}: transformers does not load it as a causal language model ({_said(error)}); its "
            "config.json and weights may be of two models: save them again, both with save_pretrained."
        ) from error
    if missing := sorted(info["missing_keys"]):
        raise UserError(
            f"teacher {name}: expected the weights of a causal language model, got none for {', '.join(missing[:3])} "
            f"({len(missing)} missing): take a model with its language modelling head (...ForCausalLM)."
        )
    layers = [key for key in sorted(info["unexpected_keys"]) if re.search(r"\.\d+\.", key)]
    if layers:
        raise UserError(
            f"teacher {name}: its weights have layers that its config.json does not describe, such as {layers[0]} "
            f"({len(layers)} in all): its config.json is another model's, or was changed; fetch it again."
        )
    return len(model.get_input_embeddings().weight)


def mend_tokens(folder: Path, name: str, size: int) -> None:
    """Takes from the tokenizer in `folder` added tokens beyond the `size` rows of the embedding, and gives tokenizer
    and config one padding token; the tokenizer is written as one file. Raises UserError for a tokenizer that is not
    fast or not the model's."""
    tokenizer = check_tokenizer(folder, name)
    if not (folder / "tokenizer.json").is_file():
        tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
        tell(name, "tokenizer.json is made of vocab.json and merges.txt")
    if beyond := {token for token, number in tokenizer.get_vocab().items() if number >= size}:
        _take_away(folder, beyond)
        tell(name, f"{_listed(beyond)} taken from the tokenizer, for the embedding has {size} rows alone")
        tokenizer = check_tokenizer(folder, name)
        if max(tokenizer.get_vocab().values()) >= size:
            raise UserError(
                f"teacher {name}: expected token ids below the {size} rows of its embedding, got "
                f"{max(tokenizer.get_vocab().values())}: the tokenizer is another model's; save the right one there."
            )
    config = read(folder / "config.json", name)
    ends = config.get("eos_token_id")
    ids = [tokenizer.pad_token_id, config.get("pad_token_id"), tokenizer.eos_token_id]
    ids += [*(ends if isinstance(ends, list) else [ends]), tokenizer.unk_token_id]
    known = set(tokenizer.get_vocab().values())
    pad = next((number for number in ids if number in known), None)
    if pad is None:
        raise UserError(
            f"teacher {name}: expected a token for padding or the end of a text, got a tokenizer with neither: set its "
            "pad_token (tokenizer.pad_token = ..., tokenizer.save_pretrained(...)) and run it again."
        )
    if tokenizer.pad_token_id != pad:
        token, file = tokenizer.convert_ids_to_tokens(pad), folder / "tokenizer_config.json"
        write_json(file, (read(file, name) if file.exists() else {}) | {"pad_token": token})
        tell(name, f"the tokenizer has no padding token; {token!r} is taken")
    if config.get("pad_token_id") != pad:
        write_json(folder / "config.json", config | {"pad_token_id": pad})


def _take_away(folder: Path, tokens: set[str]) -> None:
    """Whatever the tokenizer's files say of added tokens of these names."""
    for file in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"):
        if (path := folder / file).exists():
            found = json.loads(path.read_text(encoding="utf-8"))
            if file == "tokenizer.json":
                found["added_tokens"] = _without(found.get("added_tokens") or [], tokens)
            else:
                found = _without(found, tokens)
            write_json(path, found)


def _without(value: Any, tokens: set[str]) -> Any:
    """`value`, of JSON, without what names one of `tokens`."""

    def named(key: Any, entry: Any) -> bool:
        content = entry.get("content") if isinstance(entry, dict) else entry
        return key in tokens or (isinstance(content, str) and content in tokens)

    if isinstance(value, dict):
        return {key: _without(entry, tokens) for key, entry in value.items() if not named(key, entry)}
    if isinstance(value, list):
        return [_without(entry, tokens) for entry in value if not named(None, entry)]
    return value


def _check_safetensors(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # compares the header with the file's length
            pass
    except SafetensorError as error:
        raise UserError(f"teacher {name}: {path.name} is cut or damaged ({error}); fetch it again.") from error


def read(path: Path, name: str) -> dict[str, Any]:
    """Raises UserError for a file that is no JSON object."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"teacher {name}: {path.name} is not JSON ({error}); fetch it again.") from error
    if not isinstance(found, dict):
        raise UserError(f"teacher {name}: {path.name} holds no object, but {str(found)[:60]!r}; fetch it again.")
    return found


def _said(error: Exception) -> str:
    """The first 200 letters, in one line."""
    return " ".join(str(error).split())[:200]


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "an empty folder"
