"""A project of its own on tiny data with a tiny random teacher, whose stages all run in seconds."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.given import ROOT

DATA, METHODS = "tiny", ["none", "fisher-ld"]
COLUMNS = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp", "title": "title"}
TINY = {
    "run": {"data": [DATA], "methods": METHODS, "seeds": [0], "shallow": ["truncated-1"]},
    "data": {"user_core": 2, "item_core": 1, "labelled_windows": 8, "transfer_windows": 6, "val_users": 8,
             "test_users": 8, "zero_shot_users": 4, "history_length": 4, "history_block": 2, "train_negatives": 2,
             "transfer_negatives": 3, "eval_negatives": 5, "families": ["matched"]},
    "teacher": {"precision": "fp32", "truncated_steps": 2,
                "adapt": {"steps": 4, "eval_every": 2, "checkpoint_every": 1, "val_users": 4}},
    "rivals": {"trials": 1},
    "gate": {"override": True},
    "students": {"small": {"layers": 1, "hidden_size": 16, "heads": 2, "kv_heads": 1, "intermediate_size": 32}},
    "fisher": {"samples": 10, "update_interval": 2},
    "distill": {"precision": "fp32", "steps": 4, "eval_every": 2, "checkpoint_every": 1, "val_users": 4},
    "evaluate": {"permutations": 500},
    "efficiency": {"queries": 2},
    "cluster": {"threads": 1},
    "tracking": {"system_metrics": False},
}  # fmt: skip
CELLS = (  # in an order in which they can run
    "check_params", "download_teacher", "download tiny", "preprocess tiny", "embed_items tiny", "rivals tiny",
    "adapt_teacher tiny 0", "adapt_shallow tiny truncated-1", "gate tiny small 0", "cache_teacher tiny 0",
    "estimate_fisher tiny 0", "layer_weights tiny none", "layer_weights tiny fisher-ld", "cache_signals tiny none 0",
    "cache_signals tiny fisher-ld 0", "start_student tiny small 0", "choose_strength tiny small none 0",
    "choose_strength tiny small fisher-ld 0", "distill tiny small none 0 0", "distill tiny small fisher-ld 0 0",
    "score_rivals tiny", "score_zero_shot tiny", "score_teacher tiny 0", "score_shallow tiny truncated-1",
    "score_start tiny small", "score_student tiny small none 0", "score_student tiny small fisher-ld 0",
    "efficiency tiny small 0", "evaluate tiny", "ablations", "report",
)  # fmt: skip


def change(project: Path, changes: Mapping[str, Any]) -> None:
    """Sets keys of its params.yaml."""

    def merge(tree: Any, changes: Mapping[str, Any]) -> None:
        for key, value in changes.items():
            if isinstance(value, Mapping) and key in tree:
                merge(tree[key], value)
            else:
                tree[key] = value

    yaml = YAML()
    params = yaml.load(project / "params.yaml")
    merge(params, changes)
    yaml.dump(params, project / "params.yaml")


def make_table(folder: Path, users: int = 20, items: int = 16) -> None:
    """interactions.csv and items.csv."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [f"u{u},i{(u * 3 + k * k) % items},5,{1500000000 + 100 * k + u}" for u in range(users) for k in range(7)]
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,rating,timestamp", *rows]) + "\n")
    (folder / "items.csv").write_text("\n".join(["item_id,title", *(f"i{i},Title {i}" for i in range(items))]) + "\n")


def make_teacher(folder: Path) -> None:
    """With a token for padding, which is that for the end of a text."""
    from tests.teachers import fast, write_teacher  # here, for torch takes seconds to import

    tokenizer = fast()
    tokenizer.pad_token = tokenizer.eos_token
    write_teacher(folder, tokenizer=tokenizer, changes={"pad_token_id": tokenizer.pad_token_id})


def make_project(folder: Path, inputs: Path, changes: Mapping[str, Any] | None = None) -> Path:
    """The files of this one in `folder`, with params for the table and the teacher in `inputs`."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    for file in listed:
        if not file.startswith(("tests/", "docs/", "benchmarks/")) and (ROOT / file).is_file():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, folder / file)
    source = {"kind": "table", "interactions": str(inputs / "interactions.csv"), "items": str(inputs / "items.csv")}
    change(folder, TINY)
    change(folder, {"data_sets": {DATA: {"source": source | {"columns": COLUMNS}}}})
    change(folder, {"teacher": {"source": {"kind": "local", "name": str(inputs / "teacher"), "revision": None}}})
    change(folder, changes or {})
    return folder
