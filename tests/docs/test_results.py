"""docs/results.md and the records that it is written from."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from fisher_ld.config import paths
from fisher_ld.config.paths import FURTHER, DataPaths
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml, write_json
from fisher_ld.experiments.record import cells, collect, main, processor
from fisher_ld.report.results_page import page
from tests.docs.prose import sentences

ROOT = Path(__file__).parents[2]
STAGES = {
    "download": {"foreach": "${run.data}", "do": {}},
    "distill": {
        "matrix": {
            "data": "${run.data}", "student": "${run.students}", "method": "${run.methods}", "seed": "${run.seeds}"
        }
    },
    "report": {"cmd": "python -m stages.report"},
}  # fmt: skip
ROW = {"student": None, "group": "main", "question": "teacher_over_rival", "metric": "ndcg_10", "a": "teacher"}
ROW |= {"b": "rivals/ease", "n": 9, "seeds": 1, "difference": 0.25, "low": 0.125, "high": 0.375, "p_holm": 0.0004}
ROW |= {
    "detectable": 0.1,
    "detectable_holm": 0.15,
    "verdict": "shown above",
    "why": None,
    "d": 1.0,
}
OTHER = ROW | {"question": None, "b": "rivals/popularity", "verdict": "equal"}
BETWEEN = {"throughput": {"low": 17.5, "high": 21.0}, "latency_p50": None}
FIT = {"steps": 20, "best_step": 20, "moved": 0.4, "same_order": 0.25, "layer_loss": 0.6, "validation_start": 0.125}
FIT |= {"validation_ndcg_10": 0.5, "gain_last": 0.002}
JUDGED = {"tie": False, "lists": 9, "teacher": 0.5, "best_rival": "rivals/ease", "rivals": {}}
DATA = {
    "windows": {"all": 1300, "labelled": 300, "transfer": 1000}, "lists": {"train": 7800, "transfer": 6000},
    "read": {"teacher": 300, "student": 1200, "both": 300}, "labels": {"train": 1800, "likes": 3000, "val": 938},
    "filters": [],
}  # fmt: skip


def _filled(name: str, *run: bool) -> dict[str, Any]:
    """A table of the paper of one column, and of each row whether it was run."""
    empty = dict.fromkeys(("ours", "interval", "value", "low", "high", "spread", "p", "best", "mark"))
    cell = {True: empty | {"ours": "0.36", "empty": None}, False: empty | {"empty": "not among run.methods"}}
    rows = [
        {"name": f"row {i}", "own_start": False, "cells": [cell[of] | {"paper": "0.7"}]} for i, of in enumerate(run)
    ]
    return {"name": name, "title": f"{name}: rivals", "columns": ["NDCG@5"], "rows": rows}


def _metric(mean: float) -> dict[str, Any]:
    return {"ndcg_10": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9}, "mrr": {"mean": 0.9}}


@pytest.fixture
def params() -> dict[str, Any]:
    return read_yaml(ROOT / "params.yaml") | {
        "run": {
            "data": ["films"],
            "students": ["small"],
            "methods": ["none", "fisher-ld"],
            "further_methods": [],
            "seeds": [0, 1],
            "teacher_seeds": [0],
            "shallow": ["truncated-2"],
        }
    }


@pytest.fixture
def metrics(tmp_path, monkeypatch) -> None:
    """metrics/ of a run of one data set and one student, in the working directory."""
    monkeypatch.chdir(tmp_path)
    films = DataPaths("films")
    write_json(paths.SUMMARY, {"ndcg_10": {"fisher-ld": 0.375}})
    told = _filled("Table 0", True) | {"examples": {}}
    write_json(
        paths.TABLES / "tables.json",
        [told, _filled("Table I", True, True, False), _filled("Table II", True, False, False, False)],
    )
    quality = {"teacher": _metric(0.5), "small/fisher-ld": _metric(0.375)}
    share = {"share": 0.75, "low": 0.5, "high": 0.875, "n": 9, "above_chance": None}
    write_json(
        films.evaluate,
        {
            "quality": {"matched": quality, "uniform": {"teacher": _metric(0.625)}},
            "seeds": {
                "matched": {"chance": [0.2], "teacher": [0.5], "small/fisher-ld": [0.4, 0.35]},
                "uniform": {"teacher": [0.625]},
            },
            "comparisons": {"matched": [ROW, OTHER]},
            "retained": {"matched": {"small/fisher-ld": share}},
        },
    )
    write_json(films.data_report, DATA)
    models = [("teacher", 0), ("truncated-2", 0), *((f"small/{m}", s) for m in ("none", "fisher-ld") for s in (0, 1))]
    for model, seed in models:
        loss = {"layer_loss": None} if model == "small/none" else {}
        write_json(films.training(model, seed) / "fit.json", FIT | loss)
    write_json(films.gate("small"), {"passed": False, "overridden": True, "reasons": ["not above item-kNN"]} | JUDGED)
    ratios = {"small": {"throughput": 19.25, "latency_p50": 18.0}}
    timed = {
        "ratios": ratios,
        "intervals": {"small": BETWEEN},
        "queries": 200,
        "threads": 2,
        "precision": "bf16",
        "device": "cpu",
        "models": {},
    }
    write_json(films.efficiency("small"), timed)
    tried = [{"strength": factor, "validation_ndcg_10": score} for factor, score in ((1.0, 0.375), (0.25, 0.5))]
    for method, trials in (("none", []), ("fisher-ld", tried)):
        write_json(films.strength_trials("small", method), trials)
        write_json(films.strength("small", method), {"strength": 0.25 if trials else 1.0})
    for method, seed in product(("none", "fisher-ld", "gone"), range(2)):
        write_json(films.training(f"small/{method}", seed) / "run.json", {"stage": "distill", "seconds": 10.0})


def test_a_record_holds_the_cells_of_the_run_and_no_older_ones(metrics, params):
    found = collect(params, STAGES)
    assert found["seconds"] == {"distill": {"cells": 4, "seconds": 40.0}}  # those of `gone` are of an earlier run
    assert found["quality"]["films"]["matched"]["small/fisher-ld"] == {
        "mean": 0.375, "low": 0.275, "high": 0.475, "n": 9, "seeds": [0.4, 0.35]
    }  # fmt: skip
    assert found["comparisons"]["films"]["matched"][0]["verdict"] == "shown above"
    assert "d" not in found["comparisons"]["films"]["matched"][0]
    assert found["outcome"]["films"]["small/fisher-ld"]["layer_loss"] == 0.6
    assert found["outcome"]["films"]["small/none"]["layer_loss"] is None and "teacher" not in found["outcome"]["films"]
    assert found["scored"] == {"films": 4}  # chance is not scored
    assert [*found["strengths"]["films"]] == ["small/fisher-ld"]
    assert "filters" not in found["read"]["films"]
    assert found["params"]["teacher.adapt"] == params["teacher"]["adapt"]
    assert found["efficiency"]["films/small"]["ratios"]["small"]["throughput"] == 19.25


def test_a_run_without_its_metrics_is_not_recorded(metrics, params):
    with pytest.raises(UserError, match=r"books.*no such file"):
        collect(params | {"run": params["run"] | {"data": ["films", "books"]}}, STAGES)


def test_a_record_needs_a_name():
    with pytest.raises(UserError, match="PROFILE"):
        main([])


def test_cells_are_all_combinations_of_the_names():
    run = {"data": ["films", "books"], "students": ["small"], "methods": ["none"], "seeds": [0, 1]}
    assert cells(STAGES["download"], run) == [("films",), ("books",)]
    students = [("films", "small", "none"), ("books", "small", "none")]
    assert cells(STAGES["distill"], run) == [(*names, seed) for names in students for seed in (0, 1)]
    assert cells(STAGES["report"], run) == [()]


def test_the_stages_of_dvc_yaml_have_cells_that_a_record_can_name():
    run = read_yaml(ROOT / "params.yaml")["run"]
    for name, body in read_yaml(ROOT / "dvc.yaml")["stages"].items():
        assert bool(cells(body, run)) == (not name.endswith(FURTHER))
        assert cells(body, run | {"further_methods": ["linear"]})


def test_a_processor_is_named_with_the_units_that_matter():
    text = "model name : A\nflags\t: fpu avx512_bf16 sse\n\nmodel name : B\nflags : fpu\n"
    assert processor(text) == {"model": "A", "flags": ["avx512_bf16"]}
    assert processor("") == {"model": "unknown", "flags": []}


def _record(profile: str, changed: list[str], found: dict[str, Any]) -> dict[str, Any]:
    machine = {"model": "AMD EPYC", "flags": ["avx512_bf16"], "cores": 2}
    head = {"profile": profile, "commit": "0123456789abcdef", "changed": changed, "date": "2026-11-28"}
    return head | {"processor": machine} | found


def test_the_page_shows_what_a_record_holds(metrics, params, tmp_path):
    found = collect(params, STAGES)
    (tmp_path / "preface.md").write_text("# Results\n")
    write_json(tmp_path / "quick.json", _record("quick", ["params.yaml"], found))
    write_json(tmp_path / "default.json", _record("default", [], found))
    text = page(tmp_path)
    assert text.index("## Profile default") < text.index("## Profile quick")
    assert "[^default]: Commit `0123456789`, clean tree; 2026-11-28; 2 cores of AMD EPYC, with avx512_bf16." in text
    assert "[^quick]: Commit `0123456789`, with changes in `params.yaml`;" in text
    assert "| `teacher` | 0.500 (0.400 to 0.600), 9 | 0.625 (0.525 to 0.725), 9 |  |" in text
    assert "| `small/fisher-ld` | 0.375 (0.275 to 0.475), 9 |  | 0.350 to 0.400 |" in text
    assert "| `teacher` minus `rivals/popularity` | +0.250 (+0.125 to +0.375) | 0.0004 | equal |" in text
    assert "| adds 0.250 NDCG@10 (0.125 to 0.375) | `teacher` minus `rivals/ease`; 9 users, 1 run;" in text
    assert "Each teacher is one run; no interval holds" in text
    assert "In 2 runs recorded here the test lists were scored 8 times" in text
    assert "| labelled | 300 | 1,800 |" in text and "| validation |  | 938 |" in text
    assert "Of the windows that a student read, the teacher read 25%." in text
    assert "| `small/none` | 40.0% | 25.0% |  | 0.125 | 0.500 | +0.002 |" in text
    assert "| `small/fisher-ld` | 75.0% (50.0% to 87.5%) |  |" in text
    assert "| student | 0.25x | 1x | taken |" in text and "| `small/fisher-ld` | 0.500 | 0.375 | 0.25x |" in text
    assert "1 took the least, beyond which" in text
    assert "| `films/small` | not passed | not above item-kNN |" in text
    assert "| `small` (films/small) | 18.0 | 19.2 (17.5 to 21.0) |" in text  # no column for what was not measured
    assert "| `distill` | 4 | 40 |" in text
    assert "### Table I: rivals\n\n|  | NDCG@5 |" in text and "| row 1 | 0.36 (paper 0.7) |" in text
    assert "| row 2 | (a) (paper 0.7) |" in text and "Empty: (a) not among run.methods." in text
    assert "Table II" not in text and "Table 0" not in text


def test_a_page_without_records_is_its_preface(tmp_path):
    (tmp_path / "preface.md").write_text("# Results\n")
    assert page(tmp_path) == "# Results\n"


def test_the_page_of_a_record_is_written_in_short_sentences(metrics, params, tmp_path):
    (tmp_path / "preface.md").write_text("# Results\n")
    write_json(tmp_path / "default.json", _record("default", [], collect(params, STAGES)))
    assert [s.text for s in sentences(page(tmp_path)) if s.words > 35 or s.numbers > 2] == []


def test_the_committed_page_is_what_the_command_writes():
    folder = ROOT / "docs" / "results"
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page(folder)


def test_committed_records_name_their_file():
    for path in (ROOT / "docs" / "results").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["profile"] == path.stem
