"""Small tables as people have them, each of which once failed or lost something, and what is checked of them."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path

import polars as pl
import pytest
from tokenizers import Tokenizer, models
from tokenizers.pre_tokenizers import ByteLevel

from fisher_ld.batches.lists import read_sequences
from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.preprocess import preprocess
from tests.faults.made import COLUMNS
from tests.given import ROOT, given

CASES = ROOT / "tests" / "data" / "cases"
MARKUP = [
    "Emma", "Emma 2", "Tom & Jerry", "AC&DC", "I <3 NY", "x < y > z", "Die über", "Line one Line two",
    "The Clicker: getTime() explained", "Spanish <Spanglish>", "<Spank> the Monkey", "Learning and", "Real",
]  # fmt: skip


def settings(name: str) -> DataSet:
    own = json.loads((CASES / name / "data.json").read_text())
    source = {"kind": "table", "interactions": "x", "items": "y", "columns": COLUMNS | own.pop("columns", {})}
    few = {"user_core": 1, "item_core": 1, "labelled_windows": None, "transfer_windows": None, "item_text": "{title}"}
    return given({"data_sets": {"mine": {"source": source} | few | own}}).data_sets["mine"]


def bytes_as_tokens(folder: Path) -> Path:
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(ByteLevel.alphabet())}, merges=[]))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def rows_of(interactions: Path) -> int:
    if interactions.suffix == ".parquet":
        return len(pl.read_parquet(interactions))
    lines = [line for line in interactions.read_text().splitlines() if line.strip()]
    return len(lines) - (interactions.suffix != ".jsonl")


def check_read(folder: Path, name: str, texts: Mapping[str, str | None], said: str, raw: Path | None = None) -> None:
    """The table is read: no row is lost, some of its items have these texts, and what is printed matches `said`."""
    with redirect_stderr(StringIO()) as printed:
        folder.mkdir(parents=True, exist_ok=True)
        report = preprocess(raw or CASES / name, folder / "out", settings(name), 0, bytes_as_tokens(folder))
    (file,) = (raw or CASES / name).glob("interactions.*")
    rejected = sum(some["rows"] for some in report["rejected"]["by_reason"] if some["file"] == file.name)
    assert report["filters"][0]["interactions"] + rejected == report["rows"][file.name] == rows_of(file)
    items = pl.read_parquet(folder / "out" / "items.parquet")
    found = dict(items.select("item_id", "text").iter_rows())
    assert {item: found.get(item) for item in texts} == texts
    assert re.search(said, printed.getvalue())


def check_refused(folder: Path, name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        preprocess(CASES / name, folder / "out", settings(name), 0)
    assert not (folder / "out").exists()


def check_order(folder: Path, name: str) -> None:
    """The history of a user is in order, to the last digit of the time."""
    check_read(folder, name, {}, "")
    rows = pl.read_csv(CASES / name / "interactions.csv").filter(user_id="u29").reverse()  # newest first in the file
    items = pl.read_parquet(folder / "out" / "items.parquet")["item_id"]
    users = pl.read_parquet(folder / "out" / "users.parquet")["user_id"]
    history = dict(zip(users, read_sequences(folder / "out"), strict=True))["u29"]
    assert [items[int(item)] for item in history] == rows["item_id"].cast(pl.String).to_list()


def check_long_field(folder: Path, name: str) -> None:
    raw = folder / "raw"
    raw.mkdir(parents=True)
    (raw / "interactions.csv").write_bytes((CASES / name / "interactions.csv").read_bytes())
    items = (CASES / "21a-untitled-first" / "items.csv").read_text()
    (raw / "items.csv").write_text(items.replace("3,Title 3\n", f'3,"{"x" * 131_100}"\n'))
    check_read(folder, name, {"3": "x" * 128}, "1 texts are cut", raw)


def check_bot(folder: Path, name: str) -> None:
    """Refused with advice that works."""
    check_refused(folder, name, "user bot has 2, of 40 .* no persons, leave them out of the interactions")
    raw = folder / "raw"
    raw.mkdir(parents=True)
    for file in ("interactions.csv", "items.csv"):
        rows = (CASES / name / file).read_text().splitlines(keepends=True)
        (raw / file).write_text("".join(row for row in rows if not row.startswith("bot,")))
    check_read(folder, name, {"1": "Title 1"}, "", raw)
