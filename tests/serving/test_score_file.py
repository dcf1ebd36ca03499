import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.serving import score_file as module
from fisher_ld.serving.predictor import load
from fisher_ld.serving.score_file import score_file
from tests.serving.conftest import student

CATEGORICAL = pa.ListArray.from_arrays([0, 1], pa.array(["a"]).dictionary_encode())
ROWS = 11


@pytest.fixture(scope="module")
def predictor(data):
    return load(student(data))


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "ROWS", 4)
    rng = np.random.default_rng(0)

    def texts(low):
        return [[f"m{i}" for i in rng.integers(0, 40, rng.integers(low, 6))] for _ in range(ROWS)]

    frame = pl.DataFrame({"user": range(ROWS), "history": texts(0), "candidates": texts(0)})
    frame.write_parquet(tmp_path / "in.parquet", row_group_size=3)
    return tmp_path / "in.parquet"


def test_every_row_keeps_its_columns_and_gets_its_scores(predictor, data, source):
    out = source.with_name("out.parquet")
    assert score_file(predictor, student(data), source, out) == ROWS
    table, given = pl.read_parquet(out), pl.read_parquet(source)
    assert table.drop("scores").equals(given)
    for history, candidates, scores in table.select("history", "candidates", "scores").iter_rows():
        expected = predictor.rank(history, candidates).scores if candidates else []
        np.testing.assert_allclose(scores, expected, atol=1e-5)
    assert sorted(path.name for path in out.parent.iterdir()) == ["in.parquet", "out.parquet"]


def test_a_killed_run_goes_on_and_another_model_begins_anew(predictor, data, source, tmp_path, capsys):
    out, calls = source.with_name("out.parquet"), []

    class Killed:
        def score(self, histories, candidates):
            calls.append(len(histories))
            if len(calls) == 2:
                raise KeyboardInterrupt
            return predictor.score(histories, candidates)

    with pytest.raises(KeyboardInterrupt):
        score_file(Killed(), student(data), source, out)  # pyright: ignore[reportArgumentType]
    assert not out.exists()
    score_file(Killed(), student(data), source, out)  # pyright: ignore[reportArgumentType]
    assert len(calls) == 4 and "going on after 1 parts" in capsys.readouterr().out
    assert pl.read_parquet(out).height == ROWS
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        score_file(Killed(), student(data), source, out)  # pyright: ignore[reportArgumentType]
    with pytest.raises(KeyboardInterrupt):
        calls.clear()
        score_file(Killed(), student(data), source, out, fp32=True)  # pyright: ignore[reportArgumentType]
    assert "of another file or model are deleted" in capsys.readouterr().out, "by the other graph"
    score_file(predictor, source.parent / "in.parquet", source, out)
    assert "of another file or model are deleted" in capsys.readouterr().out


def test_two_at_once_do_not_share_their_parts(predictor, data, source):
    out = source.with_name("out.parquet")

    class Slow:
        def score(self, histories, candidates):
            with pytest.raises(UserError, match=r"out\.parquet: process \d+ on .* writes it: wait for it"):
                score_file(predictor, student(data), source, out)
            return predictor.score(histories, candidates)

    score_file(Slow(), student(data), source, out)  # pyright: ignore[reportArgumentType]
    assert pl.read_parquet(out).height == ROWS


def test_what_a_kill_leaves_of_its_own_files_is_no_other_data(predictor, data, source):
    parts = source.with_name(".out.parquet.parts")
    parts.mkdir()
    (parts / ".new-manifest.json").write_text("{")
    assert score_file(predictor, student(data), source, source.with_name("out.parquet")) == ROWS


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"history": [["a"]]}, "expected the columns history and candidates, lists of texts, got history"),
        ({"history": [["a"]], "candidates": ["b"]}, "candidates"),
        ({"history": [[7]], "candidates": [["b"]]}, r"lists of texts, got history \(list<\w+: int64>\)"),
        ({"history": [["a"]], "candidates": [[b"b"]]}, r"candidates \(list<\w+: binary>\)"),
        ({"history": CATEGORICAL, "candidates": [["b"]]}, r"got history \(list<\w+: dictionary<"),
        (
            {"history": [["a"], None], "candidates": [["b"], ["c"]]},
            r"row 1 \(from 0\): expected a list of texts as his",
        ),
        (
            {"history": [["m1"], [], ["m1 " * 90]], "candidates": [["b"], [], ["c"]]},
            r"row 2 \(from 0\): a prompt has 93 tokens",
        ),
        ({"history": [["a"]], "candidates": [["b"]], "scores": [1]}, "has a column scores already"),
    ],
)
def test_what_cannot_be_scored_is_said(predictor, data, tmp_path, columns, expected):
    pq.write_table(pa.table(columns), tmp_path / "in.parquet")
    with pytest.raises(UserError, match=expected):
        score_file(predictor, student(data), tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert not (tmp_path / "out.parquet").exists()


def test_no_parquet_and_the_same_file_are_refused(predictor, data, tmp_path):
    (tmp_path / "in.parquet").write_text("no")
    with pytest.raises(UserError, match="expected a Parquet file"):
        score_file(predictor, student(data), tmp_path / "in.parquet", tmp_path / "out.parquet")
    with pytest.raises(UserError, match="another file"):
        score_file(predictor, student(data), tmp_path / "in.parquet", tmp_path / "in.parquet")


def test_nothing_but_an_earlier_answer_is_written_over(predictor, data, source):
    out, others = source.with_name("out.parquet"), source.with_name("notes.txt")
    others.write_text("mine")
    for place, said in (
        (source.parent / "sub" / ".." / source.name, "another file than the one that is read"),
        (others, "cut, damaged or of another kind"),
    ):
        with pytest.raises(UserError, match=said):
            score_file(predictor, student(data), source, place)
    pl.DataFrame({"x": [1]}).write_parquet(out)
    with pytest.raises(UserError, match="holds other data than an earlier answer"):
        score_file(predictor, student(data), source, out)
    out.unlink()
    parts = source.with_name(".out.parquet.parts")
    parts.mkdir()
    (parts / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="it holds something else"):
        score_file(predictor, student(data), source, out)
    assert others.read_text() == (parts / "mine.txt").read_text() == "mine"


def test_a_damaged_page_and_a_name_that_stands_twice_are_said(predictor, data, tmp_path):
    path, out = tmp_path / "in.parquet", tmp_path / "out.parquet"
    lists = pa.array([["a"]])
    pq.write_table(pa.table([lists, lists, lists], names=["history", "candidates", "candidates"]), path)
    with pytest.raises(UserError, match="several columns candidates"):
        score_file(predictor, student(data), path, out)
    pq.write_table(pa.table({"history": [["m1"] * 9] * 999, "candidates": [["m2"]] * 999}), path)
    whole = bytearray(path.read_bytes())
    whole[4:40] = bytes(36)
    path.write_bytes(whole)
    with pytest.raises(UserError, match=r"in.parquet: cut, damaged"):
        score_file(predictor, student(data), path, out)
