"""Tables of real shops, as a user's own data, to the report: `make realdata`. The teacher is tiny and random, so that
only the way is tested, not what is said at its end."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from fisher_ld.core.files import read_json
from tests.slow.test_end_to_end import SMALL, begin, run

GIVEN = {"user": "user_id", "item": "item_id", "title": "title"}
TIMED = GIVEN | {"rating": "rating", "timestamp": "timestamp"}
SHOPS = {  # folder, files of interactions and items, their columns, other keys of the data set
    "movielens": (
        "movielens-latest-small", "ratings.csv", "movies.csv",
        {"user": "userId", "item": "movieId", "title": "title", "rating": "rating", "timestamp": "timestamp",
         "categories": "genres"}, {},
    ),
    "office": ("amazon-office-2018", "interactions.csv", "items.jsonl", TIMED, {}),
    "beauty": (
        "amazon-beauty-2014", "interactions.csv", "items.jsonl", GIVEN | {"order": "pos", "categories": "category"},
        {"split": "cold_items"},
    ),
    "books": ("amazon-books-2014", "interactions.csv", "items.jsonl", TIMED | {"categories": "category"}, {}),
    "gift-cards": (
        "amazon-giftcards-2018-raw", "Gift_Cards_5.json.gz", "meta_Gift_Cards.json.gz",
        {"user": "reviewerID", "item": "asin", "title": "title", "rating": "overall", "timestamp": "unixReviewTime",
         "categories": "category"}, {},
    ),
}  # fmt: skip
FOLDER = Path(os.environ.get("FISHER_LD_DATA") or "none").absolute()
FEW = {
    "data": {"max_users": 200, "user_core": 2},
    "run": {"students": ["tiny"], "methods": ["uniform", "fisher-ld"], "seeds": [0]},
}


def save_tiny_teacher(folder: Path) -> None:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    words = ["Items one person liked, in order: yes no"] * 5
    inner.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=330, special_tokens=["<e>"], initial_alphabet=alphabet)
    )
    PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<e>", pad_token="<e>").save_pretrained(folder)
    config = LlamaConfig(
        vocab_size=len(inner.get_vocab()), hidden_size=64, intermediate_size=128, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=4096,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)


@pytest.mark.realdata
@pytest.mark.parametrize("name", SHOPS)
def test_a_table_of_a_shop_goes_to_the_report(name, tmp_path):
    folder, interactions, items, columns, more = SHOPS[name]
    if not (FOLDER / folder).is_dir():
        pytest.skip(f"set FISHER_LD_DATA to a folder that holds {folder}")
    save_tiny_teacher(tmp_path / "teacher")
    places = {"interactions": str(FOLDER / folder / interactions), "items": str(FOLDER / folder / items)}
    entry = {"source": {"kind": "table", **places, "columns": columns}, "item_text": "{short_title}", **more}
    teacher = {"source": {"kind": "local", "name": str(tmp_path / "teacher")}}
    project = tmp_path / "project"
    begin(project, SMALL, FEW, {"run": {"data": [name]}, "data_sets": {name: entry}, "teacher": teacher})
    said = run(project, sys.executable, "-m", "fisher_ld.run.cells")
    assert "failed" not in said and "Traceback" not in said
    report = (project / "metrics" / "report.md").read_text()
    assert name in report and "Fisher-LD" in report
    filters = read_json(project / "metrics" / "cells" / "preprocess" / name / "data_report.json")["filters"]
    assert filters[0]["interactions"] > 2000 and filters[-1]["users"] > 30
