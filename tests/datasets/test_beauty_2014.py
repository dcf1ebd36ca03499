import gzip
import json
import os
from pathlib import Path

import pytest

from fisher_ld.config.params import DataSource
from fisher_ld.core.errors import Unavailable
from fisher_ld.datasets.beauty_2014 import FILES, FOLDER, VARIABLE, parts
from fisher_ld.fetch.data import fetch_data
from fisher_ld.preprocessing.readers import read_source
from tests.raws import by_id

SOURCE = DataSource(kind="beauty-2014")
ITEMS = {"B1": "Soap &amp; Co", "B2": "Oil", "B3": None}
ORDER = [("A", "B2"), ("A", "B1"), ("A", "B3"), ("C", "B1")]


@pytest.fixture(autouse=True)
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("DVC_ROOT", str(tmp_path))
    monkeypatch.delenv(VARIABLE, raising=False)


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def local(root):
    """The files of a folder, alike with `public`."""
    folder = root / FOLDER
    folder.mkdir(parents=True)
    (folder / FILES[0]).write_text("user_id,item_id,pos\nA,B2,0\nA,B1,1\nA,B3,2\nC,B1,0\n")
    titles = ({"title": title} if title else {} for title in ITEMS.values())
    items = ({"item_id": i, "category": "Beauty > Hair"} | title for i, title in zip(ITEMS, titles, strict=True))
    (folder / FILES[1]).write_text(lines(*items))
    return folder


def public(raw):
    raw.mkdir()
    rows = [("A", "B1", 7, 1), ("A", "B3", 7, 5), ("A", "B2", 2, 5), ("C", "B1", 3, 2)]  # two of one day
    names = ("reviewerID", "asin", "unixReviewTime", "overall")
    reviews = lines(*(dict(zip(names, row, strict=True)) for row in rows))
    (raw / "reviews.jsonl.gz").write_bytes(gzip.compress(reviews.encode()))
    paths = [["Beauty", "Hair"], ["Health", "Soap"]]
    items = lines(*({"asin": item, "title": title, "categories": paths} for item, title in ITEMS.items()))
    (raw / "meta.jsonl.gz").write_bytes(gzip.compress(items.encode()))


def read(raw, work):
    work.mkdir()
    found = read_source(raw, SOURCE, work, ["title", "short_title", "categories"])
    ordered = by_id(found).sort("user", "timestamp", "order", maintain_order=True)
    return ordered.select("user", "item", "rating", "timestamp"), found.items, found.rejected


def test_both_sources_are_read_alike(tmp_path, monkeypatch):
    local(tmp_path / "mine")
    monkeypatch.setenv(VARIABLE, "mine")  # from the repository
    fetch_data(SOURCE, tmp_path / "raw", tmp_path / "store", tmp_path / "lock.json")
    assert sorted(path.name for path in (tmp_path / "raw").iterdir()) == sorted(FILES)
    interactions, items, rejected = read(tmp_path / "raw", tmp_path / "work")
    assert interactions.rows() == [(user, item, None, None) for user, item in ORDER]
    assert items["title"].to_list() == items["short_title"].to_list() == ["Soap & Co", "Oil", None]
    assert items["categories"].to_list() == [["Beauty", "Hair"]] * 3
    assert rejected.is_empty()

    public(tmp_path / "other")
    for ours, theirs in zip((interactions, items), read(tmp_path / "other", tmp_path / "work2"), strict=False):
        assert ours.equals(theirs)


def test_without_the_variable_the_address_is_asked(monkeypatch):
    instead = "Or set FISHER_LD_DATA to a folder that holds amazon-beauty-2014/ with interactions.csv and items.jsonl."
    unset = parts(SOURCE)
    assert [part.address.rpartition("/")[2] for part in unset] == ["reviews_Beauty_5.json.gz", "meta_Beauty.json.gz"]
    assert {part.instead for part in unset} == {instead}
    monkeypatch.setenv(VARIABLE, "")
    assert parts(SOURCE) == unset


@pytest.mark.parametrize("left", [(), FILES[:1]])
def test_a_folder_that_lacks_a_file_is_an_error_and_no_address_is_asked(tmp_path, monkeypatch, left):
    folder = local(tmp_path / "mine")
    for name in set(FILES) - set(left):
        (folder / name).unlink()
    missing = " and ".join(f"no {name}" for name in FILES if name not in left)
    monkeypatch.setenv(VARIABLE, "mine")
    with pytest.raises(Unavailable, match=rf"^FISHER_LD_DATA=mine: expected .*, got {missing} in {folder}\. Set it"):
        parts(SOURCE)


@pytest.mark.realdata
def test_the_real_folder_if_at_hand(tmp_path, monkeypatch):
    root = Path(os.environ.get("FISHER_LD_DATA", "none")).absolute()
    if not (root / FOLDER).is_dir():
        pytest.skip(f"set FISHER_LD_DATA to a folder that holds {FOLDER}")
    monkeypatch.setenv(VARIABLE, str(root))
    fetch_data(SOURCE, tmp_path / "raw", tmp_path / "store", tmp_path / "lock.json")
    interactions, items, rejected = read(tmp_path / "raw", tmp_path / "work")
    assert (interactions["user"].n_unique(), interactions["item"].n_unique(), len(interactions)) == (
        22363,
        12101,
        198502,
    )
    assert items["title"].null_count() == 7 and items["short_title"].str.split(" ").list.len().max() == 16
    assert set(items["categories"].list.first()) == {"Beauty"} and rejected.is_empty()
