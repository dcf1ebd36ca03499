"""A table of the paper is data; one function fills any of them."""

import copy
import shutil
import string
import subprocess
import sys

import polars as pl
import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import read_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.experiments.claims import ANSWERS
from fisher_ld.experiments.results import Results
from fisher_ld.experiments.tables import FORM, MEASURES, Empty, fill, measure, paper
from fisher_ld.report.paper import table_blocks
from stages import ablations
from tests.experiments.conftest import FEWER
from tests.given import given

PAPER = {table["name"]: table for table in paper()["tables"]}
EVALUATE = DataPaths("movielens-100k").evaluate
NUMBERS = {  # as the paper prints them; all of every table
    "table-1": """0.847 0.823 0.792 0.634 1,230 28.5 8,000 12.5
        0.721 0.698 0.689 0.552 385 4.2 768 156  0.734 0.712 0.701 0.568 398 4.4 768 151
        0.728 0.706 0.695 0.562 392 4.3 768 153  0.741 0.719 0.708 0.574 401 4.5 768 149
        0.739 0.716 0.705 0.571 395 4.4 768 152  0.743 0.721 0.710 0.576 403 4.6 768 148
        0.779 0.758 0.731 0.603 387 4.1 768 158""",
    "table-2": "0.653 0.612 -10.4% 0.72  0.668 0.627 -9.7% 0.75  0.694 0.651 -7.8% 0.83",
    "table-3": """0.721 0.689 768M 3.2x  0.754 0.712 768M 3.2x  0.762 0.718 768M 3.2x  0.758 0.715 768M 3.1x
        0.779 0.731 768M 3.2x""",
    "table-4": """0.721 90.4% 3.2x 4.2 768  0.779 90.4% 3.2x 4.1 768  0.658 97.5% 6.8x 1.8 196
        0.702 97.5% 6.8x 1.7 196  0.587 98.8% 11.2x 1.1 98  0.623 98.8% 11.2x 1.0 98""",
    "table-5": """22,000 12,000 0.779 0.721  86,000 65,000 0.771 0.718  45,000 28,000 0.764 0.714
        123,000 51,000 0.758 0.709""",
    "table-6": """0.695 768M 2.8x 4.8  0.739 768M 3.1x 4.4  0.743 768M 3.0x 4.6  0.724 768M 3.4x 4.0
        0.746 768M 2.9x 4.7  0.751 768M 3.1x 4.5  0.779 768M 3.2x 4.1""",
    "table-7": """iPhone14Pro iPhone14 iPhone14Pro  GalaxyS23 GalaxyA54 GalaxyS23  MacBookProM2 iPadAir MacBookProM
        SonyWH-1000XM5 AirPods3rdGen SonyWH-1000X  NintendoSwitch SwitchLite AppleWatchS8""",
    "table-8": """1,230 385 387 3.18x  28.5 4.2 4.1 6.95x  98 24 23 4.26x  2.45 0.78 0.76 3.22x""",
    "table-9": "\N{GREEK SMALL LETTER SIGMA}=0.1 2.3% 150  5% 1.8% 200  10% 3.1% 180  20% 1.2% 100",
    "table-10": """0.779 0.731 5.1 15.6  0.759 0.715 4.8 15.2  0.762 0.718 4.6 14.8  0.741 0.703 7.2 18.4
        0.734 0.701 4.2 14.1  0.721 0.689 3.4 12.3""",
}
ROWS = {
    "table-1": [
        "teacher",
        "uniform",
        "attention-transfer",
        "fitnets",
        "progressive",
        "tinybert",
        "minilm",
        "fisher-ld",
    ],
    "table-3": ["uniform", "linear", "exponential", "attention-based", "fisher-ld"],
    "table-6": ["distilbert", "tinybert", "minilm", "layerdrop-3", "none", "pkd", "fisher-ld"],
}


def cells(name, results, row):
    found = next(r for r in fill(PAPER[name], results)["rows"] if r["name"] == row)
    return dict(zip(fill(PAPER[name], results)["columns"], found["cells"], strict=True))


@pytest.mark.parametrize("name", PAPER)
def test_every_number_of_the_paper_is_there_as_printed(name, results):
    cells = [cell["paper"] for row in fill(PAPER[name], results)["rows"] for cell in row["cells"]]
    assert [text.replace(" ", "") for text in cells if text] == NUMBERS[name].split()


def test_rows_name_their_methods_or_say_what_is_lacking():
    for name, models in ROWS.items():
        assert [row["model"] for row in PAPER[name]["rows"] if "paper" in row] == models
    rows = [row for table in PAPER.values() for row in table["rows"] if "model" in row]
    assert {row["model"] for row in rows if row["model"] not in METHODS} == {"teacher", "layerdrop-3"}
    assert [row.get("student") for row in PAPER["table-4"]["rows"]] == [*3 * ["compact"], *3 * ["tiny"], *3 * ["micro"]]


def test_what_the_declarations_say_exists():
    keys = {"name", "model", "lacking", "student", "data", "measure", "form", "paper", "own_start"}
    for table in PAPER.values():
        assert set(table) - {"tested", "shared"} == {"name", "title", "columns", "rows"}
        for spec in [*table["columns"], *table["rows"], *(p for r in table["rows"] for p in r.get("paper", []))]:
            if isinstance(spec, dict):
                assert set(spec) <= keys, spec
                assert spec.get("measure") in (None, *MEASURES)
                assert len(list(string.Formatter().parse(spec.get("form", FORM)))) <= 2
    known = {"where", "what", "paper", "form", "measure", "note", "metric", "metrics", "model", "against", "lacking"}
    for claim in paper()["claims"]:
        assert set(claim) <= known and {"where", "what", "paper"} <= set(claim)
        assert claim.get("measure") in (None, *MEASURES, *ANSWERS)


def test_a_filled_cell_has_our_mean_and_interval_beside_the_papers(results):
    own = results.parts["movielens-100k"].quality("small/fisher-ld", "ndcg_5")
    cell = cells("table-1", results, "FISHER-LD (Ours)")["NDCG@5"]
    assert (cell["value"], cell["low"], cell["high"], cell["paper"]) == (own["mean"], own["low"], own["high"], "0.779")
    assert (cell["ours"], cell["empty"]) == (f"{own['mean']:.3f}", None)
    assert cell["interval"] == f"{own['low']:.3f} to {own['high']:.3f}"
    assert cells("table-1", results, "Llama3-8B (Full)")["Latency (ms)"]["ours"] == "610"
    assert cells("table-3", results, "Linear Depth")["Params"]["ours"] == "26.9M"
    speed = cells("table-8", results, "Forward Pass (ms)")["Improvement"]
    assert speed["value"] == pytest.approx(5) and speed["low"] < 5.1 < speed["high"]


def test_columns_and_rows_of_our_own_have_no_number_of_the_paper(results):
    own = results.parts["movielens-100k"].quality("small/linear", "ndcg_10")
    cell = cells("table-3", results, "Linear Depth")["NDCG@10"]
    assert (cell["value"], cell["paper"]) == (own["mean"], None) and cell["p"] is not None
    assert cells("table-3", results, "Fisher per parameter")["MRR"]["empty"] == "not among the methods of this student"
    assert all(cell["paper"] is None for cell in cells("table-3", results, "Fisher per parameter").values())


def test_a_cell_that_was_not_run_says_why(results):
    def empty(name, row, column):
        cell = cells(name, results, row)[column]
        assert cell["ours"] is cell["value"] is None and cell["paper"]
        return cell["empty"]

    assert empty("table-1", "TinyBERT", "NDCG@5") == "not among the methods of this student"
    assert empty("table-6", "LayerDrop", "NDCG@5") == "not among run.shallow"
    assert empty("table-6", "StructBERT", "Speedup").startswith("no such pretrained model offline")
    assert empty("table-10", "w/o Fisher Sampling", "MRR") == "not among the methods of this student"
    assert empty("table-4", "Tiny, FISHER-LD", "Speedup") == "no student shape tiny in run.students"
    assert empty("table-5", "Books", "Baseline NDCG@5") == "no data set amazon-books in run.data"
    assert empty("table-8", "Energy (Wh/1K queries)", "Teacher") == "not measured on this machine"
    assert empty("table-8", "Energy (Wh/1K queries)", "Improvement") == "not measured on this machine"
    for name in ("table-2", "table-9"):
        found = fill(PAPER[name], results)
        assert {cell["empty"] for row in found["rows"] for cell in row["cells"]} == {"no such experiment yet"}


def test_examples_have_a_place_a_column_or_say_why_not(results, sample, monkeypatch):
    part = results.parts["movielens-100k"]
    found = fill(PAPER["table-7"], results)["examples"]
    assert len(found["users"]) == 5 and [paper for _, paper in found["shared"]] == [5, 0, 4]
    for user, own in zip(found["users"], part.examples["users"], strict=True):
        asked = ("teacher", "small/uniform", "small/fisher-ld")
        assert user["models"] == [own["models"][model] for model in asked]
    assert [ours for ours, _ in found["shared"]] == [part.examples["shared"][model] for model in asked]
    fewer = Results(given({"run": {"methods": ["none", "uniform"]}}).run)
    found = fill(PAPER["table-7"], fewer)["examples"]
    assert {str(user["models"][2]) for user in found["users"]} == {"{'empty': 'not among the methods of this student'}"}
    assert found["shared"][2] == (None, 4) and found["shared"][1][0] is not None


def test_examples_are_a_block_a_user_with_the_true_item_in_bold(results):
    table = fill(PAPER["table-7"], results)
    (user, *_), columns = table["examples"]["users"], len(table["columns"])
    user["models"][2] = {"empty": "not among the methods of this student"}
    user["models"][0] |= {"rank": 2, "top": ["a", user["liked"], "b", "c", "d"]}
    user["models"][1] |= {"rank": 6}
    _, text, shown, shares = table_blocks(table)
    assert "5 test users of ours, drawn with the run's seed before any score was read" in text.text
    assert len(shown.rows) == 6 * 6 and shown.rows[1] == ["", "1", "iPhone 14 Pro", "iPhone 14", "iPhone 14 Pro"]
    head, first, second = shown.rows[6:9]
    assert head == [
        f"user {user['user']} liked next: {user['liked']}", "", "rank 2 of 20", "rank 6 of 20",
        "not run: not among the methods of this student",
    ]  # fmt: skip
    assert first[:3] == [user["history"][-1], "1", "a"] and first[4] == "" and second[2] == user["liked"]
    assert [at for at in shown.best if at[0] in (6, 7, 8)] == [(6, 0), (6, 2), (6, 3), (6, 4), (8, 2)]
    assert shares.rows[-1] == ["the paper's user", "5", "0", "4"] and len(shares.rows[0]) == 1 + columns


def test_a_method_left_out_of_the_run_is_named(sample, monkeypatch):
    monkeypatch.chdir(sample)
    results = Results(given({"run": {"methods": ["uniform", "fisher-ld"]}}).run)
    linear = cells("table-3", results, "Linear Depth")
    assert {cell["empty"] for cell in linear.values()} == {"not among the methods of this student"}
    assert cells("table-3", results, "Uniform")["NDCG@5"]["empty"] is None


def test_a_row_is_added_by_data_alone(results):
    table = copy.deepcopy(PAPER["table-3"])
    table["rows"].append({"name": "Reversed", "model": "fisher-reversed", "paper": [0.5, 0.4, 768, 3.2]})
    table["rows"].append({"name": "First layers", "model": "truncated-2", "paper": [0.5, 0.4, 768, 3.2]})
    *_, reverse, first = fill(table, results)["rows"]
    part = results.parts["movielens-100k"]
    assert reverse["cells"][0]["value"] == part.quality("small/fisher-reversed", "ndcg_5")["mean"]
    assert first["cells"][1]["value"] == part.quality("truncated-2", "mrr")["mean"]
    assert first["cells"][2]["ours"] == "29.59M"


def test_a_table_names_another_student_and_data_set_by_data_alone(results):
    table = copy.deepcopy(PAPER["table-1"])
    table["rows"] = [{**row, "student": "small", "data": "movielens-100k"} for row in table["rows"]]
    assert fill(table, results) == fill(PAPER["table-1"], results)
    table["rows"][1]["data"] = "mine"
    assert fill(table, results)["rows"][1]["cells"][0]["empty"] == "no data set mine in run.data"


def test_an_unknown_measure_is_refused(results):
    with pytest.raises(ValueError, match="got the measure ndcg_7"):
        measure("ndcg_7", results.parts["movielens-100k"], "small", "teacher")


def test_rendering_gives_each_reason_once_and_marks_its_cells(results):
    _, table, _, text = table_blocks(fill(PAPER["table-1"], results))
    rows = {row[0]: row[1:] for row in table.rows}
    assert set(rows["FitNets"][0]) == {"(a)", "paper 0.728"}
    value, *below = rows["Uniform KD"][0]
    assert value.startswith("0.") and below[-1] == "paper 0.721"
    assert text.text == "Empty: (a) not among the methods of this student."


def test_a_metric_has_its_spread_over_seeds_and_a_single_run_none(results):
    first, second = results.parts["movielens-100k"].evaluate["seeds"]["matched"]["small/uniform"]
    own, teacher = (cells("table-1", results, row) for row in ("Uniform KD", "Llama3-8B (Full)"))
    assert own["NDCG@10"]["spread"] == pytest.approx(abs(first - second) / 2**0.5)
    assert own["MRR"]["spread"] > 0 and own["QPS"]["spread"] is None and teacher["NDCG@10"]["spread"] is None


def rows_of(*models):
    """Table I of these models."""
    numbers = PAPER["table-1"]["rows"][0]["paper"]
    return PAPER["table-1"] | {"rows": [{"name": model, "model": model, "paper": numbers} for model in models]}


def test_p_against_uniform_layers_stands_beside_ndcg_10_alone(results):
    part = results.parts["movielens-100k"]
    for model, group in {
        "none": "methods",
        "logits": "main",
        "linear": "strategies",
        "fisher-ld": "strategies",
    }.items():
        [row] = fill(rows_of(model), results)["rows"]
        tested = part.comparison(f"small/{model}", "small/uniform")
        assert tested and (tested["group"], tested["metric"]) == (group, "ndcg_10")
        assert [cell["p"] for cell in row["cells"]] == [None, tested["p_holm"], *[None] * 6], model
    for model in ("teacher", "uniform"):
        [row] = fill(rows_of(model), results)["rows"]
        assert {cell["p"] for cell in row["cells"]} == {None}


def test_of_ndcg_10_the_best_and_those_not_shown_below_it_are_marked(edited):
    verdicts = {
        "uniform": "equal", "linear": "not shown", "logits": "shown below", "exponential": "not tested",
        "fisher": "shown above", "none": "not shown",
    }  # fmt: skip
    blind = "none"  # of which no difference could have been shown

    def change(content):
        content["validation"]["small/fisher-ld"] = [9.0, 9.0]
        row = next(row for row in content["comparisons"]["matched"] if row["group"] == "best")
        content["comparisons"]["matched"] = [
            row
            | {"a": f"small/{method}", "b": "small/fisher-ld", "verdict": verdict}
            | {"detectable_holm": 1.0 if method == blind else 0.001}
            for method, verdict in verdicts.items()
        ]

    filled = fill(rows_of("teacher", "fisher-ld", *verdicts), edited(EVALUATE, change))
    marks = [[cell["mark"] for cell in row["cells"]] for row in filled["rows"]]
    near = "not shown below it"
    assert [found.pop(1) for found in marks] == [None, "best", near, near, None, None, near, None]
    assert {mark for found in marks for mark in found} == {None}
    _, table, text = table_blocks(filled)
    assert table.best == [(1, 2)] and [row[2][0][-1] == "†" for row in table.rows] == [0, 0, 1, 1, 0, 0, 1, 0]
    assert "Best on validation lists: Fisher-LD, in bold" in text.text


def test_training_time_and_memory_are_means_over_seeds(results):
    own = cells("table-10", results, "Full Fisher-LD")
    assert own["Training Time (h)"]["value"] == pytest.approx(0.03) and own["Training Time (h)"]["ours"] == "0.03"
    assert own["Memory (GB)"]["value"] == pytest.approx(1000 * 2**20 / 1e9)
    with pytest.raises(Empty, match="not measured"):
        measure("training_hours", results.parts["movielens-100k"], "small", "teacher")


def test_the_stage_writes_every_table(sample):
    folder = sample / "metrics/tables"
    assert {path.name for path in folder.iterdir()} == {
        "tables.json", *(f"{name}.{kind}" for name in PAPER for kind in ("csv", "md", "tex"))
    }  # fmt: skip
    rows = pl.read_csv(folder / "table-1.csv", schema_overrides={"paper": pl.String})
    assert len(rows) == 8 * 8 and rows["empty"].null_count() == 3 * 8
    assert rows.columns == ["row", "column", "paper", "value", "spread", "low", "high", "p", "mark", "empty"]
    tested = rows.filter(pl.col("p").is_not_null())
    assert set(tested["column"]) == {"NDCG@10"} and set(tested["row"]) == {"FISHER-LD (Ours)"}
    titles = pl.read_csv(folder / "table-7.csv")
    assert len(titles) == 5 * 3 + 5 * 5 * 3 and titles["value"].null_count() == 5 * 3
    assert (folder / "table-3.md").read_text().startswith("# Table III")
    assert (folder / "table-1.tex").read_text().startswith("% Table I: ")
    assert [table["name"] for table in read_json(folder / "tables.json")] == list(PAPER)


def test_the_stage_needs_no_torch():
    code = "import sys, stages.ablations; sys.exit(bool({'torch', 'matplotlib', 'mlflow'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_stage_reads_no_other_stage(sample, tmp_path, monkeypatch):
    for stage in ("distill", "evaluate", "efficiency"):
        shutil.copytree(sample / "metrics/cells" / stage, tmp_path / "metrics/cells" / stage)
    monkeypatch.chdir(tmp_path)
    ablations.main(given(FEWER), None)
    written = (tmp_path / "metrics/tables/tables.json").read_bytes()
    assert written == (sample / "metrics/tables/tables.json").read_bytes()


def test_rows_with_a_start_of_their_own_come_last_and_say_so(results):
    _, table, *texts = table_blocks(fill(PAPER["table-6"], results))
    assert [row[0] for row in table.rows][-3:] == ["FISHER-LD", "LayerDrop‡", "StructBERT‡"]
    assert any("does not share the start" in text.text for text in texts)
