import pytest

from fisher_ld.core.files import read_json
from stages import download, download_teacher
from tests.given import given


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


def test_the_teacher_is_laid_down(project, run):
    (project / "mine").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (project / "mine" / name).write_text("{}")
    (project / "mine" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    download_teacher.main(given({"teacher": {"source": {"kind": "local", "name": "mine"}}}), run)
    assert read_json("data/teacher/base/config.json") == {}
    assert not run.metrics
