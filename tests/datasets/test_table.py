"""A folder of parts, and what of it is a table."""

import pytest

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.core.errors import UserError
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


def test_hidden_files_are_no_parts_and_documents_are_said(tmp_path, capsys):
    made = folder(tmp_path, "part-0.csv", "._part-0.csv", ".part-0.csv.crc", "_SUCCESS", "README.txt", "LICENSE")
    assert names(made) == {"interactions-00000.csv": "part-0.csv"}
    assert capsys.readouterr().err == f"{tmp_path}: left out LICENSE, README.txt\n"


@pytest.mark.parametrize("name", ["part-1.csv.bz2", "part-2", "sub/part-3.csv", "part-4.orc"])
def test_what_may_be_a_part_and_cannot_be_read_is_refused(tmp_path, name):
    made = folder(tmp_path, "part-0.csv", name)
    with pytest.raises(UserError, match=f"files ending in .csv, .*, got {name.split('part-3')[0]}; convert"):
        names(made)


def test_a_folder_without_a_table(tmp_path):
    with pytest.raises(UserError, match=r"expected a folder with files ending in .csv, .*, got none$"):
        names(folder(tmp_path, "README.csv"))


def test_parts_are_in_order_of_their_numbers(tmp_path):
    assert names(folder(tmp_path, "part-10.csv", "part-2.csv", "part-1.tsv")) == {
        "interactions-00000.tsv": "part-1.tsv",
        "interactions-00001.csv": "part-2.csv",
        "interactions-00002.csv": "part-10.csv",
    }
