from fisher_ld.core.files import read_json
from stages.preprocess import main
from tests.given import given


def test_the_stage_writes_tables_and_report(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data" / "mine" / "raw"
    raw.mkdir(parents=True)
    rows = [f"u{u},i{(u + k) % 9},{k}" for u in range(9) for k in range(6)]
    (raw / "interactions.csv").write_text("\n".join(["user_id,item_id,pos", *rows]))
    (raw / "items.csv").write_text("\n".join(["item_id,title", *(f"i{k},Item {k}" for k in range(9))]))
    columns = {"user": "user_id", "item": "item_id", "title": "title", "order": "pos"}
    source = {"kind": "table", "interactions": "x", "items": "x", "columns": columns}
    mine = {"source": source, "train_negatives": 2, "eval_negatives": 3, "uniform_users": 4, "zero_shot_users": 2}
    main(given({"data_sets": {"mine": mine}}), run, "mine")
    report = read_json("metrics/cells/preprocess/mine/data_report.json")
    assert report["lists"] == {"train": 27, "val": 9, "test_popularity": 9, "test_uniform": 4}
    assert (tmp_path / "data/mine/processed/train.parquet").is_file()
    assert not run.metrics
    assert not run.artifacts
