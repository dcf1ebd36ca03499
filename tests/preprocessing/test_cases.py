"""What the tables of tests/faults lead to, beyond their rows there."""

import json
import re

import polars as pl
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.datasets.titles import clean
from fisher_ld.preprocessing.preprocess import _with_text, preprocess
from tests.faults.tables import CASES, settings


def test_missing_words_are_missing_titles_too(tmp_path, capsys):
    data = settings("07b-null-words").model_copy(update={"max_rejected": 0.5})
    report = preprocess(CASES / "07b-null-words", tmp_path / "out", data, 0)
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


def test_items_whose_text_is_empty_are_told_with_their_interactions(tmp_path, capsys):
    raw, case = tmp_path / "raw", CASES / "11-markup"
    raw.mkdir()
    likes = pl.read_csv(case / "interactions.csv")
    likes.write_csv(raw / "interactions.csv")
    brands = {"item_id": range(1, 41), "title": ["T"] * 40, "brand": [f"B{i}" if i % 2 else "" for i in range(1, 41)]}
    pl.DataFrame(brands).write_csv(raw / "items.csv")
    lost = len(likes.filter(pl.col("item_id") % 2 == 0))
    data = settings("11-markup").model_copy(update={"item_text": "{brand}", "eval_negatives": 9})
    report = preprocess(raw, tmp_path / "out", data, 0)
    examples = [str(i) for i in range(2, 41, 2)]
    assert report["items_without_text"] == {"items": 20, "interactions": lost, "examples": examples}
    said = f"warning: item_text '{{brand}}' gives 20 items an empty text, such as '2', '4', '6': .* {lost} interactions"
    assert re.search(said, capsys.readouterr().err)


@pytest.mark.parametrize(
    ("start", "first", "warned"),
    [(1_577_836_800, "2020-01-01 00:00:00 to 2020-01-01 00:0", False), (43_861.5, "1970-01-01 12:11:01 to", True)],
)
def test_the_first_and_the_last_time_are_told_and_all_before_1975_are_warned_of(tmp_path, capsys, start, first, warned):
    raw, case = tmp_path / "raw", CASES / "40-own-same-text"
    raw.mkdir()
    likes = pl.read_csv(case / "interactions.csv")
    likes = likes.with_columns(timestamp=pl.Series([start + k for k in range(len(likes))]))
    likes.write_csv(raw / "interactions.csv")
    (raw / "items.csv").write_bytes((case / "items.csv").read_bytes())
    preprocess(raw, tmp_path / "out", settings("40-own-same-text"), 0)
    said = capsys.readouterr().err
    assert f"times: {first}" in said
    assert ("warning: all times lie before 1975" in said) == warned


@pytest.mark.parametrize(
    ("kinds", "text", "said"),
    [
        (["nan", "Books", "NULL"], "Title 1 Books", ""),
        ([{"genre": "Books"}], "Title 1", "warning: 40 of 40 items have no category, such as '1'"),
    ],
)
def test_lists_of_categories_lack_missing_words_and_none_at_all_is_told(tmp_path, capsys, kinds, text, said):
    raw, case = tmp_path / "raw", CASES / "10i-jsonl-dicts"
    raw.mkdir()
    (raw / "interactions.csv").write_bytes((case / "interactions.csv").read_bytes())
    items = pl.read_ndjson(case / "items.jsonl").select("item_id", "title").to_dicts()
    (raw / "items.jsonl").write_text("\n".join(json.dumps(item | {"cat": kinds}) for item in items))
    preprocess(raw, tmp_path / "out", settings("10i-jsonl-dicts"), 0)
    found = pl.read_parquet(tmp_path / "out" / "items.parquet")
    assert found.filter(item_id="1")["text"].to_list() == [text]
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("title", "had", "kept"),
    [
        ("神" * 2400, "2400 words of 2400 letters", "128 words of 128 letters"),
        ("x" * 2400, "1 words of 2400 letters", "1 words of 2048 letters"),
        ("ab " * 2400, "2400 words of 7199 letters", "128 words of 383 letters"),
    ],
)
def test_of_a_cut_text_is_told_how_much_there_was_and_stays(tmp_path, capsys, title, had, kept):
    items = pl.DataFrame({"item": ["1", "2"], "title": [clean(title), "Short"]})
    assert _with_text(items, "{title}", 128)[1] == 1
    said = f"1 texts are cut at 128 words; item '1' had {had}, of which stay {kept} (max_words)"
    assert capsys.readouterr().err.strip() == said
