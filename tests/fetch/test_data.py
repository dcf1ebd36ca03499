import gzip
import zipfile
from dataclasses import replace

import pytest

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.core.errors import Unavailable, UserError
from fisher_ld.datasets.catalogue import SOURCES
from fisher_ld.datasets.kind import Part
from fisher_ld.fetch.data import fetch_data

COLUMNS = Columns(user="user_id", item="item_id", title="title", order="place")


@pytest.fixture
def data(tmp_path):
    """fetch_data() to tmp_path/raw, the kind of the source with other parts where they are given."""

    def call(source, parts=None):
        catalogue = {source.kind: replace(SOURCES[source.kind], parts=parts)} if parts else SOURCES
        fetch_data(source, tmp_path / "raw", tmp_path / "store", tmp_path / "lock.json", catalogue)
        return {path.name: path.read_bytes() for path in (tmp_path / "raw").iterdir()}

    return call


def table(interactions, items):
    return DataSource(kind="table", columns=COLUMNS, interactions=str(interactions), items=str(items))


def test_members_of_an_archive_are_unpacked(data, tmp_path):
    with zipfile.ZipFile(tmp_path / "ml.zip", "w") as archive:
        for name in ("ratings", "movies", "users", "unused"):
            archive.writestr(f"ml-1m/{name}.dat", name)
    source = DataSource(kind="movielens-1m")
    (part,) = SOURCES["movielens-1m"].parts(source)
    raw = data(source, lambda source: [Part(str(tmp_path / "ml.zip"), part.target)])
    assert raw == {"ratings.dat": b"ratings", "movies.dat": b"movies", "users.dat": b"users"}


def test_files_of_a_category_get_the_names_of_the_kind(data, tmp_path):
    (tmp_path / "Gift_Cards_5.json.gz").write_bytes(gzip.compress(b"reviews"))
    (tmp_path / "meta_Gift_Cards.json.gz").write_bytes(gzip.compress(b"meta"))

    def parts(source):
        found = SOURCES["amazon-2018"].parts(source)
        return [replace(part, address=str(tmp_path / part.address.rpartition("/")[2])) for part in found]

    raw = data(DataSource(kind="amazon-2018", category="Gift_Cards"), parts)
    assert {name: gzip.decompress(content) for name, content in raw.items()} == {
        "reviews.jsonl.gz": b"reviews",
        "meta.jsonl.gz": b"meta",
    }


def test_tables_keep_their_format_and_are_copied(data, tmp_path):
    (tmp_path / "My likes.CSV").write_text("likes")
    (tmp_path / "things.jsonl.gz").write_text("things")
    source = table(tmp_path / "My likes.CSV", (tmp_path / "things.jsonl.gz").as_uri())
    assert data(source) == {"interactions.csv": b"likes", "items.jsonl.gz": b"things"}
    (tmp_path / "raw" / "interactions.csv").write_text("changed")
    assert (tmp_path / "My likes.CSV").read_text() == "likes"


def test_what_to_do_instead_follows_an_address_that_gives_nothing(data, tmp_path):
    part = Part("https://nowhere.invalid/a.csv", "a.csv", instead="Or give a folder.")
    with pytest.raises(
        Unavailable, match=r"a\.csv: unknown host nowhere\.invalid.* run it again\. Or give a folder\.$"
    ):
        data(DataSource(kind="movielens-1m"), lambda source: [part])
    with pytest.raises(Unavailable, match=r"run it again\.$"):
        data(DataSource(kind="movielens-1m"), lambda source: [replace(part, instead="")])
    assert not (tmp_path / "raw").exists()
    with pytest.raises(UserError) as error:
        data(DataSource(kind="movielens-1m"), lambda source: [replace(part, address=str(tmp_path / "none"))])
    assert not isinstance(error.value, Unavailable)


def test_failure_leaves_what_was_there(data, tmp_path):
    (tmp_path / "a.csv").write_text("a")
    data(table(tmp_path / "a.csv", tmp_path / "a.csv"))
    (tmp_path / "folder.csv").mkdir()
    for items, text in (
        ("b.csv", "no such file"),
        ("a.xlsx", "expected a table ending in .csv, .tsv, .* got a.xlsx"),
        ("folder.csv", "expected a folder with files ending in .csv"),
    ):
        with pytest.raises(UserError, match=text):
            data(table(tmp_path / "a.csv", tmp_path / items))
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a.csv", "folder.csv", "raw"]
        assert sorted(p.name for p in (tmp_path / "raw").iterdir()) == ["interactions.csv", "items.csv"]


def test_of_a_folder_every_table_is_taken(data, tmp_path):
    (tmp_path / "likes").mkdir()
    for name in ("part-2.csv", "part-1.csv", "_SUCCESS"):
        (tmp_path / "likes" / name).write_text(name)
    (tmp_path / "items.csv").write_text("items")
    found = data(table(tmp_path / "likes", tmp_path / "items.csv"))
    assert found == {
        "interactions-00000.csv": b"part-1.csv",
        "interactions-00001.csv": b"part-2.csv",
        "items.csv": b"items",
    }
