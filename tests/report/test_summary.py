"""The few numbers that experiments are compared by, and the tables of `dvc plots`."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from fisher_ld.config.messages import flatten
from fisher_ld.core.files import read_json, read_yaml
from fisher_ld.experiments.results import Results
from fisher_ld.report.findings import QUESTIONS
from fisher_ld.report.summary import MOST, best_student, plots, summary
from stages import report
from tests.experiments.conftest import FEWER
from tests.given import ROOT, given
from tests.report.test_report import TWO, double

__all__ = ["double"]


def test_one_of_each_needs_no_names(results):
    numbers = flatten(summary(results))
    part = results.parts["movielens-100k"]
    assert numbers["ndcg_10.fisher-ld"] == part.quality("small/fisher-ld")["mean"]
    assert numbers["ndcg_10.best_rival"] == part.quality("rivals/follow-counts")["mean"]
    assert numbers["kept.none"] == part.evaluate["retained"]["matched"]["small/none"]["share"]
    assert (
        numbers["difference.fisher_over_uniform"] == part.comparison("small/fisher-ld", "small/uniform")["difference"]
    )
    assert {f"difference.{key}" for key in QUESTIONS} <= set(numbers)
    assert {"ndcg_10.teacher", "speedup.small", "gate_passed.small"} <= set(numbers)
    assert len(numbers) <= MOST == 30 and all(isinstance(value, float) for value in numbers.values())


def test_several_are_named_and_the_least_important_left_out(double, monkeypatch, capsys):
    monkeypatch.chdir(double)
    numbers = flatten(summary(Results(given(TWO).run)))
    assert len(numbers) == 30
    for data in ("movielens-100k", "mine"):
        assert f"ndcg_10.{data}.teacher" in numbers and f"speedup.{data}.tiny" in numbers
        assert f"difference.{data}.teacher_over_rival" in numbers
        assert {f"{topic}.{data}.{s}.fisher-ld" for topic in ("ndcg_10", "kept") for s in ("small", "tiny")} <= set(
            numbers
        )
    assert "left out" in capsys.readouterr().out


def test_plots_hold_all_cells(double, monkeypatch):
    monkeypatch.chdir(double)
    tables = plots(Results(given(TWO).run))
    assert set(tables) == {"quality", "strategies", "profile", "training", "weights"}
    assert all(set(table["data"]) == {"movielens-100k", "mine"} for table in tables.values())
    assert tables["training"]["validation_ndcg_10"].null_count() == 0
    assert "mine: student tiny, Fisher-LD" in set(tables["weights"]["model"])
    assert len(tables["strategies"]) == 2 * (2 + 1)  # each weighting but uniform of small; of tiny its one


def test_every_picture_of_dvc_plots_has_rows_and_columns_to_draw(sample, monkeypatch):
    monkeypatch.chdir(sample)
    tables = plots(Results(given(FEWER).run))
    for picture in read_yaml(ROOT / "dvc.yaml")["plots"]:
        [(_, drawn)] = picture.items()
        [(file, _)] = drawn["y"].items()
        template, table = (ROOT / drawn["template"]).read_text(), tables[Path(file).stem]
        for column, value in re.findall(r"datum\.(\w+) == '([^']+)'", template):
            table = table.filter(pl.col(column) == value)
        assert len(table) > 0, drawn["template"]
        used, made = (set(re.findall(rf'"{key}": "(\w+)"', template)) for key in ("field", "as"))
        assert used - made - {"rev"} <= set(table.columns), drawn["template"]


def test_a_run_without_layers_draws_empty_tables(sample, monkeypatch):
    monkeypatch.chdir(sample)
    tables = plots(Results(given(FEWER | {"run": FEWER["run"] | {"methods": ["none"]}}).run))
    assert len(tables["weights"]) == 0 and {"model", "seed", "step", "layer", "weight"} <= set(
        tables["weights"].columns
    )


def test_dvc_draws_columns_that_are_there(results):
    tables = plots(results)
    drawn = [entry for plot in read_yaml(ROOT / "dvc.yaml")["plots"] for entry in plot.values()]
    assert {Path(file).stem for plot in drawn for file in plot["y"]} == set(tables)
    for plot in drawn:
        [(file, column)] = plot["y"].items()
        text = (ROOT / plot["template"]).read_text()
        json.loads(text)
        assert {plot["x"], column} <= set(tables[Path(file).stem].columns)


def test_the_stage_writes_all_and_completes_the_parent(here, monkeypatch):
    monkeypatch.setattr("stages.report.document", lambda results, params: [])
    seen, registered = [], []
    monkeypatch.setattr("stages.report.register", lambda run, *parts: registered.append(parts))
    report.main(given(FEWER), SimpleNamespace(complete_parent=lambda *parts: seen.append(parts)))
    [(numbers, artifacts)] = seen
    [(folder, name, tags, history_length)] = registered
    assert history_length is None  # of lists that are not here
    assert name == "fisher-ld-movielens-100k" and folder.parts[-3:] == ("small", tags["method"], str(tags["seed"]))
    assert numbers == read_json("metrics/summary.json") and numbers["gate_passed"] == {"small": 1.0}
    assert [str(path) for path in artifacts] == ["metrics/report.html", "metrics/report.md", "metrics/plots"]
    assert all(path.exists() for path in artifacts)
    assert {path.name for path in artifacts[2].iterdir()} == {
        "quality.csv", "strategies.csv", "profile.csv", "training.csv", "weights.csv"
    }  # fmt: skip


def test_the_best_student_is_chosen_by_validation_alone(results):
    [part] = results.parts.values()
    model, seed, tags = best_student(part)
    scores = {(m, s): score for m, seeds in part.evaluate["validation"].items() for s, score in enumerate(seeds)}
    assert tags["validation_ndcg_10"] == scores[model, seed] == max(scores.values())
    assert tags["test_ndcg_10"] == part.evaluate["seeds"]["matched"][model][seed]
    assert tags["test_ndcg_10_over_seeds"] == part.quality(model)["mean"]
    assert f"{tags['student']}/{tags['method']}" == model


@pytest.fixture(autouse=True)
def quiet_pictures(monkeypatch):
    monkeypatch.setattr("fisher_ld.report.page.charts", lambda part, method: {})
