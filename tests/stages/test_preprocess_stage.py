from fisher_ld.core.files import read_json
from stages.preprocess import main
from tests.given import given


def test_the_stage_writes_tables_and_report(tmp_path, monkeypatch, run, capsys):
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data" / "mine" / "raw"
    raw.mkdir(parents=True)
    rows = [f"u{u},i{(u + k) % 9},{k}" for u in range(9) for k in range(6)]
    (raw / "interactions.csv").write_text("\n".join(["user_id,item_id,pos", *rows]))
    (raw / "items.csv").write_text("\n".join(["item_id,title", *(f"i{k},Item {k}" for k in range(9))]))
    columns = {"user": "user_id", "item": "item_id", "title": "title", "order": "pos"}
    source = {"kind": "table", "interactions": "x", "items": "x", "columns": columns}
    mine = {"source": source, "train_negatives": 2, "transfer_negatives": 3, "eval_negatives": 3}
    mine |= {"labelled_windows": 4, "transfer_windows": 3, "test_users": 4, "zero_shot_users": 2}
    mine |= {"families": ["matched", "uniform", "popularity"]}
    main(given({"data_sets": {"mine": mine}}), run, "mine")
    report = read_json("metrics/cells/preprocess/mine/data_report.json")
    tests = {"test_matched": 4, "test_popularity": 4, "test_uniform": 4}
    assert report["lists"] == {"train": 27, "labelled": 12, "transfer": 9, "val": 9, **tests}
    assert report["windows"] == {"all": 9, "labelled": 4, "transfer": 3}
    assert "test_matched: NDCG@10 of popularity" in capsys.readouterr().err
    assert (tmp_path / "data/mine/processed/labelled.parquet").is_file()
    assert not run.metrics
    assert not run.artifacts
