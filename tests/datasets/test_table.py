"""A folder of parts, and what of it is a table."""

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.datasets.table import parts


def folder(path, *names):
    for name in names:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text("user_id,item_id,title\na,b,c\n")
    return path


def source(path):
    columns = Columns(user="user_id", item="item_id", title="title", order="user_id")
    return DataSource(kind="table", interactions=str(path), items="items.csv", columns=columns)


def names(path):
    *found, items = parts(source(path))
    assert items.target == "items.csv"
    return {part.target: part.address.rpartition("/")[2] for part in found}


def test_parts_are_in_order_of_their_numbers(tmp_path):
    assert names(folder(tmp_path, "part-10.csv", "part-2.csv", "part-1.tsv")) == {
        "interactions-00000.tsv": "part-1.tsv",
        "interactions-00001.csv": "part-2.csv",
        "interactions-00002.csv": "part-10.csv",
    }
