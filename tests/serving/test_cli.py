import io
import json
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fisher_ld.serving.cli import main
from fisher_ld.serving.predictor import load
from tests.serving.conftest import student


@pytest.fixture
def model(data):
    return str(student(data))


def lines(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_one_query_by_options(model, capsys):
    assert main(["rank", model, "--history", "m1", "m2", "--candidates", "m3", "m4"]) == 0
    expected = load(model).rank(["m1", "m2"], ["m3", "m4"])
    assert lines(capsys) == [{"scores": expected.scores.tolist(), "order": expected.order.tolist()}]


def test_queries_as_lines_of_json_with_their_ids(model, capsys, monkeypatch):
    queries = [{"id": "a", "history": ["m1"], "candidates": ["m2"]}, {"history": [], "candidates": ["m2", "m3"]}]
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n".join(map(json.dumps, queries)) + "\n"))
    assert main(["rank", model]) == 0
    first, second = lines(capsys)
    assert first["id"] == "a" and len(second["order"]) == 2 and "id" not in second


@pytest.mark.parametrize("line", ["nothing", "[1]", '{"history": ["m1"]}', '{"history": "m1", "candidates": ["m2"]}'])
def test_a_line_that_is_no_query_ends_it_with_its_number(model, line, capsys, monkeypatch):
    good = json.dumps({"history": ["m1"], "candidates": ["m2"]})
    monkeypatch.setattr(sys, "stdin", io.StringIO(f"{good}\n{line}\n{good}\n"))
    assert main(["rank", model]) == 1
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 1, "what was asked before is answered"
    said = "fisher-ld: line 2: expected an object with history and candidates, lists of texts, got"
    assert err.splitlines()[-1].startswith(said)


def test_recommendations_and_a_word_on_what_is_no_item(model, capsys):
    assert main(["recommend", model, "--history", "m1", "unheard of", "-k", "3"]) == 0
    out, err = capsys.readouterr()
    assert len(json.loads(out)["items"]) == 3 and json.loads(out)["unknown"] == ["unheard of"]
    assert "no item has the title or text 'unheard of'" in err


def test_a_file_of_queries(model, tmp_path, capsys):
    pl.DataFrame({"history": [["m1"]], "candidates": [["m2", "m3"]]}).write_parquet(tmp_path / "in.parquet")
    assert main(["score", model, str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.parquet")]) == 0
    assert pl.read_parquet(tmp_path / "out.parquet")["scores"].list.len().to_list() == [2]
    assert capsys.readouterr().out.endswith("out.parquet: 1 rows\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rank", "/none", "--history", "a", "--candidates", "b"], "expected the folder of a model"),
        (["rank", "MODEL", "--history", *["m1"] * 90, "--candidates", "b"], "the model's context ends at 64"),
        (["rank", "MODEL", "--history", "m1"], "one or more candidates"),
        (["score", "MODEL", "/none.parquet", "--out", "/tmp/never.parquet"], "expected a Parquet file"),
    ],
)
def test_what_can_be_put_right_is_one_sentence_and_exit_code_1(model, arguments, said, capsys):
    assert main([model if word == "MODEL" else word for word in arguments]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("fisher-ld: ") and said in err and "Traceback" not in err


@pytest.mark.parametrize("arguments", [[], ["rank"], ["recommend", "MODEL", "-k", "0"], ["fly"]])
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_the_command_is_installed_and_help_has_examples_without_a_model_library(tmp_path):
    command = Path(sys.executable).with_name("fisher-ld")
    found = subprocess.run([command, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0 and "fisher-ld recommend data/" in found.stdout
    heavy = (
        "import sys, fisher_ld.serving.cli; print([m for m in ('torch', 'transformers', 'mlflow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"
