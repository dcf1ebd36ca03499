"""docs/results.md and the records that it is written from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from fisher_ld.config import paths
from fisher_ld.config.paths import DataPaths
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_yaml, write_json
from fisher_ld.experiments.record import cells, collect, main, processor
from fisher_ld.report.results_page import page

ROOT = Path(__file__).parents[2]
STAGES = {
    "download": {"foreach": "${run.data}", "do": {}},
    "distill": {"matrix": {"data": "${run.data}", "method": "${run.methods}", "seed": "${run.seeds}"}},
    "report": {"cmd": "python -m stages.report"},
}
ROW = {"student": "small", "group": "main", "metric": "ndcg_10", "a": "teacher", "b": "rivals/popularity", "n": 9}
ROW |= {"difference": 0.25, "low": 0.125, "high": 0.375, "p_holm": 0.0004, "verdict": "shown above", "d": None}


def _metric(mean: float) -> dict[str, Any]:
    return {"ndcg_10": {"mean": mean, "low": mean - 0.1, "high": mean + 0.1, "n": 9}, "mrr": {"mean": 0.9}}


@pytest.fixture
def params() -> dict[str, Any]:
    return read_yaml(ROOT / "params.yaml") | {
        "run": {"data": ["films"], "students": ["small"], "methods": ["none", "fisher-ld"], "seeds": [0, 1]}
    }


@pytest.fixture
def metrics(tmp_path, monkeypatch) -> None:
    """metrics/ of a run of one data set and one student, in the working directory."""
    monkeypatch.chdir(tmp_path)
    films = DataPaths("films")
    write_json(paths.SUMMARY, {"ndcg_10": {"fisher-ld": 0.375}})
    quality = {"teacher": _metric(0.5), "small/fisher-ld": _metric(0.375)}
    share = {"share": 0.75, "low": 0.5, "high": 0.875, "n": 9, "above_chance": None}
    write_json(
        films.evaluate,
        {
            "quality": {"popularity": quality, "uniform": {"teacher": _metric(0.625)}},
            "comparisons": {"popularity": [ROW]},
            "retained": {"popularity": {"small/fisher-ld": share}},
        },
    )
    write_json(films.gate("small"), {"passed": False, "overridden": True, "reasons": ["not above item-kNN"]})
    ratios = {"small": {"throughput": 19.25, "latency_p50": 18.0}}
    timed = {"ratios": ratios, "queries": 200, "threads": 2, "precision": "bf16", "device": "cpu", "models": {}}
    write_json(films.efficiency("small"), timed)
    for name in ("films-none-0", "films-none-1", "films-fisher-ld-0", "films-fisher-ld-1", "films-gone-0"):
        write_json(paths.cell("distill", name) / "run.json", {"stage": "distill", "seconds": 10.0})


def test_a_record_holds_the_cells_of_the_run_and_no_older_ones(metrics, params):
    found = collect(params, STAGES)
    assert found["seconds"] == {"distill": {"cells": 4, "seconds": 40.0}}  # films-gone-0 is of an earlier run
    assert found["quality"]["films"]["popularity"]["small/fisher-ld"] == {
        "mean": 0.375, "low": 0.275, "high": 0.475, "n": 9
    }  # fmt: skip
    assert found["comparisons"]["films"]["popularity"][0]["verdict"] == "shown above"
    assert "n" not in found["comparisons"]["films"]["popularity"][0]
    assert found["params"]["teacher.adapt"] == params["teacher"]["adapt"]
    assert found["efficiency"]["films/small"]["ratios"]["small"]["throughput"] == 19.25


def test_a_run_without_its_metrics_is_not_recorded(metrics, params):
    with pytest.raises(UserError, match="evaluate"):
        collect(params | {"run": params["run"] | {"data": ["films", "books"]}}, STAGES)


def test_a_record_needs_a_name():
    with pytest.raises(UserError, match="PROFILE"):
        main([])


def test_cells_are_all_combinations_of_the_names():
    run = {"data": ["films", "books"], "methods": ["none"], "seeds": [0, 1]}
    assert cells(STAGES["download"], run) == ["films", "books"]
    assert cells(STAGES["distill"], run) == ["films-none-0", "films-none-1", "books-none-0", "books-none-1"]
    assert cells(STAGES["report"], run) == ["run"]


def test_the_stages_of_dvc_yaml_have_cells_that_a_record_can_name():
    run = read_yaml(ROOT / "params.yaml")["run"]
    for body in read_yaml(ROOT / "dvc.yaml")["stages"].values():
        assert cells(body, run)


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
    assert "| `teacher` | 0.500 (0.400 to 0.600), 9 | 0.625 (0.525 to 0.725), 9 |" in text
    assert "| `small/fisher-ld` | 0.375 (0.275 to 0.475), 9 |  |" in text
    assert "| `teacher` minus `rivals/popularity` | +0.250 (+0.125 to +0.375) | 0.0004 | shown above |" in text
    assert "| `small/fisher-ld` | 75.0% (50.0% to 87.5%) |  |" in text
    assert "| `films/small` | not passed | not above item-kNN |" in text
    assert "| `small` (films/small) | 18.0 | 19.2 |" in text  # no column for what was not measured
    assert "| `distill` | 4 | 40 |" in text


def test_the_committed_page_is_what_the_command_writes():
    folder = ROOT / "docs" / "results"
    assert (ROOT / "docs" / "results.md").read_text(encoding="utf-8") == page(folder)


def test_committed_records_name_their_file():
    for path in (ROOT / "docs" / "results").glob("*.json"):
        assert json.loads(path.read_text(encoding="utf-8"))["profile"] == path.stem
