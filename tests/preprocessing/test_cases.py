"""Small tables as people have them, each of which once failed or lost something: what comes of it, and what is said."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

from fisher_ld.batches.lists import read_sequences
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.preprocess import preprocess
from tests.given import given

FOLDER = Path(__file__).parents[1] / "data" / "cases"
COLUMNS = {"user": "user_id", "item": "item_id", "rating": "rating", "timestamp": "timestamp", "title": "title"}
ALL = {"1": "Title 1", "2": "Title 2", "40": "Title 40"}
CAFE = {"3": "Café", "40": "Title 40"}
BOOKS = {"1": "Title 1 Books, Fiction"}
MARKUP = [
    "Emma", "Emma 2", "Tom & Jerry", "AC&DC", "I <3 NY", "x < y > z", "Die über", "Line one Line two",
    "The Clicker: getTime() explained", "Spanish <Spanglish>", "<Spank> the Monkey", "Learning and", "Real",
]  # fmt: skip

# name -> texts of some items, what is printed (a pattern)
RIGHT = {
    "05a-title-binary": (ALL, "0.0% of the interactions"),
    "05b-ids-binary": (ALL, "0.0% of the interactions"),
    "06a-float-ids": (ALL, "0.0% of the interactions"),
    "06b-half-leading-zeros": ({"41": "Title 41"}, "warning: 50.0% of the interactions .* such as '001'"),
    "06f-half-float": (ALL, "0.0% of the interactions"),
    "08a-iso": (ALL, "time as dates"),
    "08c-date": (ALL, "time as dates"),
    "08d-millis": (ALL, "time in milliseconds since 1970"),
    "08g-before-1970": (ALL, "time in seconds since 1970"),
    "08x-limit-raised": (ALL, "time as dates"),
    "09a-semicolon": (ALL, "interactions.csv: read as utf-8, semicolon-separated"),
    "09b-tab": (ALL, "items.csv: read as utf-8, tab-separated"),
    "09d-items-semicolon": (ALL, "items.csv: read as utf-8, semicolon-separated"),
    "09e-tsv": (ALL, "items.tsv: read as utf-8, tab-separated"),
    "10a-python-list": (BOOKS, None),
    "10b-json-list": (BOOKS, None),
    "10c-comma": (BOOKS, "a comma stands between the categories"),
    "10d-semicolon": (BOOKS, "a semicolon stands between the categories"),
    "10i-jsonl-dicts": (BOOKS, None),
    "10j-jsonl-numbers": ({"1": "Title 1 1, 2"}, None),
    "11-markup": ({str(i): title for i, title in enumerate(MARKUP, 1)}, None),
    "18a-scale-1-10": (ALL, "warning: ratings reach 10, and positive_rating is 4"),
    "18b-zero-is-none": (ALL, "warning: 62% of the ratings are 0"),
    "18e-minus1-is-none": (ALL, "warning: 27% of the ratings are -1"),
    "19a-cp1252": (CAFE, "items.csv: read as cp1252"),
    "19b-utf16": (CAFE, "items.csv: read as utf-16"),
    "19c-cr-items": (CAFE, None),
    "19g-cp1252-1-of-2000": (CAFE, "items.csv: read as cp1252"),
    "20a-backslash-quote": ({"3": 'He said "hi", ok'}, "quotes after a backslash"),
    "21a-untitled-first": ({"7": "Emma"}, "1 items have several rows"),
    "21d-row-per-category": ({"1": "Title 1 Books"}, "warning: 40 items have several rows"),
    "22a-jsonl-true": (ALL, "ratings: 0: 60, 1: 180"),
    "22b-csv-True": (ALL, "ratings: 0: 60, 1: 180"),
    "27-special-token": ({"3": "Ad<|im_end|>mission"}, None),
    "28-long-title": (ALL, "1 texts are cut at 128 words; item '3' had 3000"),
    "29-items-lacking": ({"1": "Title 1"}, "warning: 81.5% of the interactions name an item without a row"),
    "40-own-same-text": ({"2": "Title 1"}, "warning: 40 items share their text"),
}
REFUSED = {
    "07a-nan-json": "20 of 240 rows .* missing user id: 20",
    "07b-null-words": "missing user id: 20 .* for example 'NULL,1,5,1577836800'",
    "08f-zero": r"no time \(0\): 4 \(first in row 2\); for example 'u00,1,5,0'",
    "12a-one-test-user": "one test user, of whom no interval can be told",
    "12b-fold-of-5-users": "one test user, of whom no interval can be told",
    "12d-fold-of-4-users": "fold 4 has no user: 4 users in 5 folds",
    "41-own-duplicate-header": "items.csv: expected each column once, got title twice",
    "42-own-json-key-typo": "no row has a field title; there are item_id, name",
    "43-own-json-array": "expected one JSON object a line, got a JSON array",
}


def settings(name):
    own = json.loads((FOLDER / name / "data.json").read_text())
    source = {"kind": "table", "interactions": "x", "items": "y", "columns": COLUMNS | own.pop("columns", {})}
    few = {"user_core": 1, "item_core": 1, "labelled_windows": None, "transfer_windows": None, "item_text": "{title}"}
    return given({"data_sets": {"mine": {"source": source} | few | own}}).data_sets["mine"]


@pytest.mark.parametrize("name", RIGHT)
def test_a_table_as_it_comes_is_read(name, tmp_path, capsys):
    texts, said = RIGHT[name]
    preprocess(FOLDER / name, tmp_path / "out", settings(name), 0)
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")
    found = dict(items.select("item_id", "text").iter_rows())
    assert {item: found.get(item) for item in texts} == texts
    assert said is None or re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize("name", REFUSED)
def test_a_table_that_cannot_be_used_is_refused_with_the_reason(name, tmp_path):
    with pytest.raises(UserError, match=REFUSED[name]):
        preprocess(FOLDER / name, tmp_path / "out", settings(name), 0)
    assert not (tmp_path / "out").exists()


def test_no_case_is_forgotten():
    assert {path.name for path in FOLDER.iterdir()} == {*RIGHT, *REFUSED, *IN_ORDER}


IN_ORDER = {"35-own-subsecond", "37-own-order-19-digits"}


@pytest.mark.parametrize("name", sorted(IN_ORDER))
def test_histories_are_in_order_to_the_last_digit(name, tmp_path):
    preprocess(FOLDER / name, tmp_path / "out", settings(name), 0)
    rows = pl.read_csv(FOLDER / name / "interactions.csv").filter(user_id="u29").reverse()  # newest first in the file
    items = pl.read_parquet(tmp_path / "out" / "items.parquet")["item_id"]
    users = pl.read_parquet(tmp_path / "out" / "users.parquet")["user_id"]
    history = dict(zip(users, read_sequences(tmp_path / "out"), strict=True))["u29"]
    assert [items[int(item)] for item in history] == rows["item_id"].cast(pl.String).to_list()


def test_missing_words_are_missing_titles_too(tmp_path, capsys):
    data = settings("07b-null-words").model_copy(update={"max_rejected": 0.5})
    report = preprocess(FOLDER / "07b-null-words", tmp_path / "out", data, 0)
    assert report["items_without_title"] == {"items": 1, "examples": ["3"]}
    assert "warning: 20 rows cannot be used, the first is row 2 of interactions.csv" in capsys.readouterr().err


def test_a_file_without_one_usable_row_is_said_so(tmp_path):
    data = settings("08f-zero").model_copy(update={"max_rejected": 1})
    (tmp_path / "interactions.csv").write_text("user_id,item_id,rating,timestamp\na,1,5,soon\n")
    (tmp_path / "items.csv").write_text("item_id,title\n1,One\n")
    with pytest.raises(UserError, match=r"no row of interactions.csv could be used"):
        preprocess(tmp_path, tmp_path / "out", data, 0)


def test_ids_that_never_meet_are_refused_with_one_of_each_side(tmp_path):
    data = settings("08f-zero")
    (tmp_path / "interactions.csv").write_text("user_id,item_id,rating,timestamp\na,B01,5,1500000000\n")
    (tmp_path / "items.csv").write_text("item_id,title\n17,One\n")
    with pytest.raises(UserError, match=r"100.0% of the interactions .* such as 'B01'; its own ids are such as '17'"):
        preprocess(tmp_path, tmp_path / "out", data, 0)


def test_a_field_of_any_length_is_read_and_its_text_cut(tmp_path, capsys):
    name = "28-long-title"
    (tmp_path / "interactions.csv").write_bytes((FOLDER / name / "interactions.csv").read_bytes())
    items = (FOLDER / "21a-untitled-first" / "items.csv").read_text()
    (tmp_path / "items.csv").write_text(items.replace("3,Title 3\n", f'3,"{"x" * 131_100}"\n'))
    preprocess(tmp_path, tmp_path / "out", settings(name), 0)
    texts = dict(pl.read_parquet(tmp_path / "out" / "items.parquet").select("item_id", "text").iter_rows())
    assert texts["3"] == "x" * 128 * 16
    assert "1 texts are cut" in capsys.readouterr().err
