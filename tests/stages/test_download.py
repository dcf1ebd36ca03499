import os
import subprocess
import sys

import pytest

from fisher_ld.core.files import read_json, write_json
from stages import download, download_teacher
from tests.given import ROOT, given


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DVC_ROOT", raising=False)
    return tmp_path


def test_the_data_of_a_name_are_laid_down(project, run):
    (project / "likes.csv").write_text("12345")
    columns = {"user": "u", "item": "i", "title": "t", "order": "place"}
    source = {"kind": "table", "interactions": "likes.csv", "items": "likes.csv", "columns": columns}
    download.main(given({"data_sets": {"mine": {"source": source}}}), run, "mine")
    assert (project / "data/mine/raw/interactions.csv").read_text() == "12345"
    assert not run.metrics


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("", "unknown host mcauleylab.nowhere.invalid"),
        ("wrong", "got no interactions.csv and no items.jsonl in "),
    ],
)
def test_data_that_are_not_to_be_had_end_the_stage_with_2_and_a_sentence(project, named, said):
    changes = {"data_sets": {"mine": {"source": {"kind": "beauty-2014"}}}}
    write_json(project / "params.yaml", given(changes).model_dump(mode="json"))
    (project / "dvc.yaml").write_text("stages: {download: {params: [data_sets.mine.source]}}")
    code = (
        "import runpy; from fisher_ld.datasets import amazon_2014 as kind; "
        "kind.ADDRESS = 'https://mcauleylab.nowhere.invalid'; runpy.run_module('stages.download', run_name='__main__')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, "mine"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FISHER_LD_DATA": named, "no_proxy": "*"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("download@mine: ") and said in line and "amazon-beauty-2014/" in line
    assert not (project / "data/mine/raw").exists()


def test_the_teacher_is_laid_down(project, run):
    (project / "mine").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (project / "mine" / name).write_text("{}")
    (project / "mine" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    download_teacher.main(given({"teacher": {"source": {"kind": "local", "name": "mine"}}}), run)
    assert read_json("data/teacher/base/config.json") == {}
    assert not run.metrics
