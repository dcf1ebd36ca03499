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


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        ({"history": [["a"]]}, "expected the columns history and candidates, lists of texts, got history"),
        ({"history": [["a"]], "candidates": ["b"]}, "candidates"),
        ({"history": [[7]], "candidates": [["b"]]}, r"lists of texts, got history \(list<\w+: int64>\)"),
        ({"history": [["a"]], "candidates": [[b"b"]]}, r"candidates \(list<\w+: binary>\)"),
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
