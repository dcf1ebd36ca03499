"""The whole report from a sample of metrics."""

import re
import shutil
from types import SimpleNamespace

import polars as pl
import pytest
from fisher_ld.stages import report as stage

from fisher_ld.config.messages import flatten
from fisher_ld.config.params import Params
from fisher_ld.core.errors import UserError
from fisher_ld.report.inputs import final_metrics, read_results
from fisher_ld.report.page import Table, Text, html, markdown
from fisher_ld.report.report import write_report


def test_html_is_self_contained(sample, tmp_path):
    write_report(read_results(sample), 0.5, tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r"https?://", page) == []
    assert "<script" not in page and "<link" not in page
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) == 8 and all(source.startswith("data:image/") for source in sources)
    assert (tmp_path / "report.md").read_text().startswith("# Fisher-LD")


def test_same_metrics_give_the_same_page(sample, tmp_path):
    for name in ("a", "b"):
        write_report(read_results(sample), 0.5, tmp_path / name)
    assert (tmp_path / "a/report.html").read_bytes() == (tmp_path / "b/report.html").read_bytes()


@pytest.mark.parametrize(
    ("file", "stage"),
    [
        ("preprocess.json", "preprocess"),
        ("adapt_teacher.json", "adapt_teacher"),
        ("fisher.json", "estimate_fisher"),
        ("gate.json", "cache_teacher"),
        ("evaluate.json", "evaluate"),
        ("ablations.json", "ablations"),
        ("distill/uniform.json", "distill@uniform"),
        ("plots/training/teacher.csv", "adapt_teacher"),
        ("plots/weights/fisher-ld.csv", "distill@fisher-ld"),
        ("plots/fisher.png", "estimate_fisher"),
        ("plots/data/history_lengths.png", "preprocess"),
    ],
)
def test_missing_file_names_its_stage(sample, tmp_path, file, stage):
    metrics = shutil.copytree(sample, tmp_path / "metrics")
    (metrics / file).unlink()
    with pytest.raises(UserError, match=rf"{file}.*dvc repro {stage}\)"):
        read_results(metrics)


def test_without_fisher_ld_there_is_no_report(sample, tmp_path, edit):
    metrics = shutil.copytree(sample, tmp_path / "metrics")
    edit(metrics / "evaluate.json", lambda e: [e["retained"][f].pop("fisher-ld") for f in e["retained"]])
    with pytest.raises(UserError, match="dvc repro distill@fisher-ld"):
        read_results(metrics)


def test_weights_that_never_changed_are_said_to(sample, tmp_path):
    metrics = shutil.copytree(sample, tmp_path / "metrics")
    shutil.copy(metrics / "plots/weights/fisher.csv", metrics / "plots/weights/fisher-ld.csv")
    write_report(read_results(metrics), 0.5, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "were not updated in this run" in text
    assert "Changed in training (Eq. 9): Fisher-LD shuffled; Fisher-LD reversed.\n" in text


def test_methods_are_said_to_train_as_they_do(sample, tmp_path):
    write_report(read_results(sample), 0.5, tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "Fixed in training: uniform layers; linear depth; exponential depth; Fisher, fixed weights." in text
    assert "Changed in training (Eq. 9): Fisher-LD shuffled; Fisher-LD reversed; Fisher-LD." in text
    assert text.count("a share of 0.5 of it (distill.list_weight) is a softmax over the list") == 1


@pytest.mark.parametrize("parts", [1, 2])
def test_a_teacher_adapted_in_two_parts_is_said_to_start_quietly(sample, tmp_path, parts):
    metrics = shutil.copytree(sample, tmp_path / "metrics")
    curve = pl.read_csv(metrics / "plots/training/teacher.csv")
    if parts == 1:
        curve.with_columns(depth=pl.lit(30)).write_csv(metrics / "plots/training/teacher.csv")
    write_report(read_results(metrics), 0.5, tmp_path)
    assert ("The first 4 layers were adapted before" in (tmp_path / "report.md").read_text()) == (parts == 2)


def test_final_metrics_are_single_numbers(sample):
    metrics = flatten(final_metrics(read_results(sample)))
    assert all(isinstance(value, int | float) for value in metrics.values())
    assert not [name for name in metrics if "layers" in name]
    assert {"quality.popularity.fisher-ld.ndcg_10", "retained.popularity.fisher-ld.share", "gate_passed"} <= set(
        metrics
    )


def test_stage_completes_the_experiment(sample, tmp_path, monkeypatch):
    metrics = shutil.copytree(sample, tmp_path / "metrics")
    (metrics / "runs").mkdir()
    for name in ("evaluate", "report"):
        (metrics / "runs" / f"{name}.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    seen = []
    stage.main(Params(), SimpleNamespace(complete_parent=lambda *parts: seen.append(parts)))
    [(runs, values, artifacts)] = seen
    assert [path.name for path in runs][-1] == "evaluate.json"
    assert {path.stem for path in runs[:-1]} == set(read_results(metrics).distill)
    assert values["gate_passed"] == 1.0
    assert all(path.exists() for path in artifacts)


def test_blocks_are_escaped():
    blocks = [Text("a < b"), Table(["x"], [["<b>"], [("1 | 2", "3")]])]
    assert "<b>" not in html("t & t", blocks)
    assert "a &lt; b" in html("t & t", blocks)
    assert "| 1 \\| 2 (3) |" in markdown("t", blocks)


def test_verdicts_are_badges():
    page = html("t", [Table(["v"], [["not shown"], ["reproduced"], ["no"]], words=(0,))])
    assert re.findall(r'badge (\w+)">', page) == ["open", "good", "bad"]
