import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from fisher_ld.serving.cli import EXAMPLES, main
from fisher_ld.serving.export import Exported
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


def test_recommendations_for_lines_of_json(model, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO('{"id": 7, "history": ["m1"]}\n{"history": []}\n'))
    assert main(["recommend", model, "-k", "3"]) == 0
    first, second = lines(capsys)
    assert first["id"] == 7 and len(first["items"]) == len(second["items"]) == 3


def test_a_file_of_queries(model, tmp_path, capsys):
    pl.DataFrame({"history": [["m1"]], "candidates": [["m2", "m3"]]}).write_parquet(tmp_path / "in.parquet")
    assert main(["score", model, str(tmp_path / "in.parquet"), "--out", str(tmp_path / "out.parquet")]) == 0
    assert pl.read_parquet(tmp_path / "out.parquet")["scores"].list.len().to_list() == [2]
    assert capsys.readouterr().out.endswith("out.parquet: 1 rows\n")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["rank", "/none", "--history", "a", "--candidates", "b"], "expected the folder of a model"),
        (["rank", "MODEL", "--history", "m1 " * 90, "--candidates", "b"], "the model's context ends at 64"),
        (["rank", "MODEL", "--history", "m1"], "one or more candidates"),
        (["rank", "MODEL", "--history", "\ud800", "--candidates", "b"], r"expected a text in Unicode, got '\ud800'"),
        (["rank", "EMPTY", "--history", "m1", "--candidates", "b"], "model.safetensors: no such file; copy the model"),
        (["export", "EMPTY", "/tmp/never"], "model.safetensors: no such file; copy the model"),
        (["score", "MODEL", "FILE", "--out", "/dev/null/out.parquet"], "/dev/null: File exists; name a place"),
        (["score", "MODEL", "FILE", "--out", "EMPTY"], "expected a file to write, got a folder"),
        (["score", "MODEL", "/none.parquet", "--out", "/tmp/never.parquet"], "expected a Parquet file"),
    ],
)
def test_what_can_be_put_right_is_one_sentence_and_exit_code_1(model, arguments, said, capsys, tmp_path):
    places = {"MODEL": model, "EMPTY": str(tmp_path / "empty"), "FILE": str(tmp_path / "in.parquet")}
    shutil.copytree(model, places["EMPTY"])
    (tmp_path / "empty" / "model.safetensors").unlink()
    pl.DataFrame({"history": [["m1"]], "candidates": [["m2"]]}).write_parquet(places["FILE"])
    assert main([places.get(word, word) for word in arguments]) == 1
    err = capsys.readouterr().err
    assert err.splitlines()[-1].startswith("fisher-ld: ") and said in err and "Traceback" not in err


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["rank"],
        ["recommend", "MODEL", "-k", "0"],
        ["serve", "MODEL", "--port", "0"],
        ["serve", "MODEL", "--port", "70000"],
        ["fly"],
    ],
)
def test_wrong_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2


def test_an_error_of_the_program_keeps_its_traceback(model, monkeypatch):
    def broken(*given, **options):
        raise ValueError("shapes differ")

    monkeypatch.setattr("fisher_ld.serving.predictor.load", broken)
    with pytest.raises(ValueError, match="shapes differ"):
        main(["rank", model, "--history", "m1", "--candidates", "m2"])


def test_an_interrupt_is_exit_code_130(model, monkeypatch):
    def interrupted(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("fisher_ld.serving.predictor.load", interrupted)
    assert main(["rank", model, "--history", "m1", "--candidates", "m2"]) == 130


@pytest.mark.parametrize("command", EXAMPLES)
def test_each_command_shows_an_example(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    assert f"examples:\n  fisher-ld {command} " in capsys.readouterr().out


ALONE = """
import sys
import fisher_ld
from fisher_ld.serving.cli import main

folder = sys.argv[1]
query = ["--history", "m1", "m2"]
assert main(["rank", folder, *query, "--candidates", "m3", "m4"]) == 0
assert main(["rank", folder, "--fp32", *query, "--candidates", "m3", "m4"]) == 0
assert main(["recommend", folder, *query, "-k", "3"]) == 0
films = fisher_ld.load_recommender(folder)
assert len(films.explain(["m1", "m2"], "m3")) == 2
assert films.predictor.history_length == 3
assert not {"torch", "transformers", "onnx"} & set(sys.modules)
"""


def test_an_exported_model_ranks_and_recommends_without_pytorch(model, tmp_path, capsys):
    out = tmp_path / "exported"
    assert main(["export", model, str(out)]) == 0
    assert "which keep the order of " in capsys.readouterr().out
    answer = subprocess.run([sys.executable, "-c", ALONE, out], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    rounded, exact, best = map(json.loads, answer.stdout.splitlines())
    assert rounded != exact and len(best["items"]) == 3
    expected = load(model).rank(["m1", "m2"], ["m3", "m4"]).scores
    assert exact["scores"] == pytest.approx(expected.tolist(), abs=1e-4)


@pytest.mark.parametrize(("order", "warned"), [(0.9, True), (0.99, False)])
def test_an_export_whose_candidates_change_places_is_warned_of(model, order, warned, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("fisher_ld.serving.export.export", lambda *given: Exported(1e-6, 0.1, order))
    assert main(["export", model, str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert f"which keep the order of {order:.1%} of pairs" in out and ("answer by float32" in err) == warned


def test_the_command_is_installed_and_help_has_examples_without_a_model_library(tmp_path):
    command = Path(sys.executable).with_name("fisher-ld")
    found = subprocess.run([command, "--help"], capture_output=True, text=True, cwd=tmp_path)
    assert found.returncode == 0 and "fisher-ld recommend data/" in found.stdout
    heavy = (
        "import sys, fisher_ld.serving.cli; print([m for m in ('torch', 'transformers', 'mlflow') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True).stdout.strip() == "[]"


def asked(monkeypatch, *rows):
    monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{row}\n" for row in rows)))


def test_what_the_model_refuses_says_its_line(model, capsys, monkeypatch):
    asked(monkeypatch, *(json.dumps({"history": ["m1"], "candidates": ["m2 " * n]}) for n in (1, 200)))
    assert main(["rank", model]) == 1
    assert "fisher-ld: line 2: a prompt has" in capsys.readouterr().err


@pytest.mark.parametrize(("own", "code"), [('"\\ud83d"', 0), ("1" * 5000, 1), ("NaN", 1)], ids=["half", "long", "nan"])
def test_ids_come_back_as_they_came_or_are_refused(model, own, code, capsys, monkeypatch):
    asked(monkeypatch, f'{{"id": {own}, "history": ["m1"], "candidates": ["m2"]}}')
    assert main(["rank", model]) == code
    out, err = capsys.readouterr()
    assert out.startswith(f'{{"id": {own}, ') if code == 0 else "fisher-ld: line 1: expected an object" in err


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("config.json", lambda b: b.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 3'), "it lacks model.la"),
        (
            "config.json",
            lambda b: b.replace(b'"num_hidden_layers": 2', b'"num_hidden_layers": 1'),
            "it has beside them",
        ),
        ("config.json", lambda b: b[:-9], "copy the model's folder whole"),
        ("model.safetensors", lambda b: b[:-9], "copy the model's folder whole"),
        ("tokenizer.json", lambda b: b[:-9], "tokenizer.json: cut, damaged"),
        ("prompt.json", lambda b: b"{}", "prompt.json: cut, damaged"),
        ("prompt.json", lambda b: b'"\xe9"', "prompt.json: not JSON"),
    ],
)
def test_a_damaged_or_mixed_model_is_refused(model, tmp_path, capsys, file, change, said):
    shutil.copytree(model, tmp_path / "m")
    before = (tmp_path / "m" / file).read_bytes()
    (tmp_path / "m" / file).write_bytes(change(before))
    assert (tmp_path / "m" / file).read_bytes() != before
    assert main(["rank", str(tmp_path / "m"), "--history", "m1", "--candidates", "m2"]) == 1
    assert said in capsys.readouterr().err
