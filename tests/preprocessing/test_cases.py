"""What the tables of tests/faults lead to, beyond their rows there."""

import json
import re

import polars as pl
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.preprocess import _with_text, preprocess
from tests.faults.tables import CASES, settings
from tests.teachers import byte_level, sentence_pieces


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
    listed = pl.read_parquet(tmp_path / "out" / "without_text.parquet")
    assert listed.rows() == [(item, "T") for item in examples]
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
    ("text", "had", "left"),
    [
        ("x" * 200, 200, "x" * 128),
        ("yes " * 200, 200, "yes " * 127 + "yes"),  # the blank that is left out belongs to the next token
        ("神" * 60, 180, "神" * 42),  # of three bytes, and so tokens: the 43rd would be cut within
        ("<end>" * 40, 160, "<end>" * 32),  # the name of a special token is plain text
        ("x" * 128, None, None),
        ("yes " * 128, None, None),
    ],
)
def test_texts_are_cut_at_tokens_and_counted(tmp_path, capsys, text, had, left):
    byte_level("<end>").save(str(tmp_path / "tokenizer.json"))
    items = pl.DataFrame({"item": ["1", "2"], "title": [text, "Short"]})
    found, cut = _with_text(items, "{title}", 128, tmp_path / "tokenizer.json")
    assert found["text"].to_list() == [left or text.strip(), "Short"]
    assert cut == (had is not None)
    said = f"1 texts are cut at 128 tokens of the teacher's tokenizer; item '1' had {had} (max_tokens)\n"
    assert capsys.readouterr().err == (said if had else "")


def test_what_a_tokenizer_pads_is_no_token(tmp_path):
    tokenizer = byte_level("<end>")
    tokenizer.enable_padding(length=256, direction="left")
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    items = pl.DataFrame({"item": ["1", "2"], "title": ["yes " * 99 + "yes", "x" * 200]})
    found, cut = _with_text(items, "{title}", 128, tmp_path / "tokenizer.json")
    assert found["text"].to_list() == ["yes " * 99 + "yes", "x" * 128] and cut == 1


@pytest.mark.parametrize(("text", "left"), [("1" * 128, "1" * 127), ("1" * 127, "1" * 127), ("ﷺ" * 43, "ﷺ" * 42)])
def test_a_tokenizer_that_sets_a_mark_before_a_text_cuts_it_too(tmp_path, text, left):
    sentence_pieces().save(str(tmp_path / "tokenizer.json"))
    items = pl.DataFrame({"item": ["1"], "title": [text]})
    assert _with_text(items, "{title}", 128, tmp_path / "tokenizer.json")[0]["text"].to_list() == [left]


def test_without_a_tokenizer_a_long_text_is_refused_and_a_short_one_needs_none(tmp_path):
    items = pl.DataFrame({"item": ["1"], "title": ["Short"]})
    assert _with_text(items, "{title}", 128, tmp_path / "none.json")[1] == 0
    with pytest.raises(UserError, match=r"none.json: no such file, .* run the stage download_teacher"):
        _with_text(items.with_columns(title=pl.lit("x" * 129)), "{title}", 128, tmp_path / "none.json")
