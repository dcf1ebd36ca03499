from pathlib import Path
from types import SimpleNamespace

from fisher_ld.stages.preprocess import main

from fisher_ld.config.params import Columns, Data, DataSource
from fisher_ld.core.files import read_json


def test_the_stage_writes_tables_report_and_plots(tmp_path, monkeypatch, run):
    monkeypatch.chdir(tmp_path)
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    rows = [f"u{u},i{(u + k) % 9},{k}" for u in range(9) for k in range(6)]
    (raw / "interactions.csv").write_text("\n".join(["user_id,item_id,pos", *rows]))
    (raw / "items.csv").write_text("\n".join(["item_id,title", *(f"i{k},Item {k}" for k in range(9))]))
    source = DataSource(kind="table", interactions="x", items="x", columns=Columns(order="pos"))
    params = SimpleNamespace(data=Data(source=source, train_negatives=2, eval_negatives=3), seed=0)
    main(params, run)
    report = read_json("metrics/preprocess.json")
    assert report["lists"] == {"train": 27, "val": 9, "test_popularity": 9, "test_uniform": 9}
    assert (tmp_path / "data" / "processed" / "train.parquet").is_file()
    assert run.metrics["users"] == 9
    assert [Path(plot).name for plot in run.artifacts] == ["history_lengths.png", "item_popularity.png", "filters.png"]
    assert len(list((tmp_path / "metrics" / "plots" / "data").iterdir())) == 3
