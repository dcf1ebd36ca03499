from fisher_ld.stages import download

from fisher_ld.config.params import Params
from fisher_ld.core.files import read_json


def test_lays_down_data_and_teacher(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "likes.csv").write_text("12345")
    (tmp_path / "mine").mkdir()
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / "mine" / name).write_text("{}")
    (tmp_path / "mine" / "model.safetensors").write_bytes((2).to_bytes(8, "little") + b"{}")
    params = Params.model_validate(
        {
            "data": {
                "source": {
                    "kind": "table",
                    "interactions": "likes.csv",
                    "items": "likes.csv",
                    "columns": {"order": "place"},
                }
            },
            "teacher": {"source": {"kind": "local", "name": "mine"}},
        }
    )
    download.main(params, run)
    assert (tmp_path / "data/raw/interactions.csv").read_text() == "12345"
    assert read_json("data/teacher/base/config.json") == {}
    assert run.metrics == {"raw_bytes": 10.0, "teacher_bytes": 14.0}
