import datetime
import gzip

import polars as pl
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.datasets.blocks import delimited_blocks
from fisher_ld.datasets.rows import delimited, find, json_lines, parquet
from fisher_ld.datasets.titles import text


def write(folder, name, content):
    path = folder / name
    content = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    return path


def test_find(tmp_path):
    with pytest.raises(UserError, match=r"expected a.csv, got no such folder"):
        find(tmp_path / "none", "a.csv")
    with pytest.raises(UserError, match=r"expected a.csv, got an empty folder"):
        find(tmp_path, "a.csv")
    write(tmp_path, "b.csv", "")
    with pytest.raises(UserError, match=r"expected a.csv, got b.csv; run dvc repro download"):
        find(tmp_path, "a.csv")
    with pytest.raises(UserError, match=r"b.csv: the file is empty"):
        find(tmp_path, "b.csv")
    path = write(tmp_path, "t.csv", "x")
    assert find(tmp_path, "t", (".csv", ".jsonl")) == path
    write(tmp_path, "t.jsonl", "x")
    with pytest.raises(UserError, match=r"expected one file .* got t.csv, t.jsonl"):
        find(tmp_path, "t", (".csv", ".jsonl"))


@pytest.mark.parametrize("name", ["a.tsv", "a.tsv.gz"])
def test_delimited(tmp_path, name):
    path = write(tmp_path, name, '\ufeffid\tname\n1\ta "quoted" word\r\n\n2\n3\tb\tc\n4\t\xe9\n')
    rows = list(delimited(path, "\t"))
    assert [(r.number, dict(r.record), r.reason) for r in rows] == [
        (2, {"id": "1", "name": 'a "quoted" word'}, None),
        (4, {}, "wrong number of fields"),
        (5, {}, "wrong number of fields"),
        (6, {"id": "4", "name": "\xe9"}, None),
    ]
    assert rows[1].raw == "2"


def test_delimiter_of_two_characters_and_latin_1(tmp_path):
    path = write(tmp_path, "m.dat", "1::L\xe9on: the pro::Drama\n2::x\n".encode("latin-1"))
    good, bad = delimited(path, "::", header=("id", "title", "genres"), encoding="latin-1")
    assert good.record == {"id": "1", "title": "L\xe9on: the pro", "genres": "Drama"}
    assert (bad.number, bad.reason) == (2, "wrong number of fields")


def test_bytes_that_are_not_utf8(tmp_path):
    path = write(tmp_path, "a.csv", b"id,name\n1,L\xe9on\n2,ok\n")
    bad, good = delimited(path)
    assert (bad.reason, bad.raw, good.record["id"]) == ("wrong encoding", "1,L\\udce9on", "2")
    bad, good = json_lines(write(tmp_path, "a.jsonl", b'{"a": "\xe9"}\n{"a": 1}\n'))
    assert (bad.reason, good.record) == ("wrong encoding", {"a": 1})


def test_quoted_fields_hold_anything(tmp_path):
    path = write(tmp_path, "a.csv", 'id,title\n1,"a, ""b""\nc"\n2,d\n')
    first, second = delimited(path, quoted=True)
    assert (first.number, first.record["title"]) == (2, 'a, "b"\nc')
    assert (second.number, second.record["title"]) == (4, "d")


@pytest.mark.parametrize("delimiter", ["\t", ",", "|"])
def test_rows_joined_by_an_open_quote_are_told_once_a_file(tmp_path, capsys, delimiter):
    lines = ["id,title,x", '1,"Foo,a', '2,Bar",b', '3,"two\nlines",c', '4,"Foo,d', "5,Baz,e", '6,Bar",f']
    path = write(tmp_path, "a.tsv", "\n".join(lines).replace(",", delimiter))
    assert [row.number for row in delimited(path, delimiter, quoted=True)] == [2, 4, 6]
    said = capsys.readouterr().err
    assert said.startswith("warning: a.tsv: row 2 has a line within quotes that looks like a row of its own")
    list(delimited_blocks(path, ["id"], delimiter, quoted=True))
    assert capsys.readouterr().err == said and said.count("\n") == 1
    path = write(tmp_path, "b.tsv", "\n".join((lines[0], *lines[3:4])).replace(",", delimiter))
    assert [row.record["title"] for row in delimited(path, delimiter, quoted=True)] == ["two\nlines"]
    assert not capsys.readouterr().err


def test_a_backslash_stays_but_before_what_it_escapes(tmp_path):
    lines = [r"id,a,b", r'\N,"\N",DOM\joe', r'1,"a \"b\" c",C:\\x', r'2,"C:\d, \\\"e\"",x\,y', '3,"a\\', 'b",c\\']
    path = write(tmp_path, "a.csv", "\n".join(lines))
    assert [tuple(row.record.values()) for row in delimited(path, quoted=True, escape="\\")] == [
        ("\\N", "\\N", "DOM\\joe"),
        ("1", 'a "b" c', "C:\\x"),
        ("2", 'C:\\d, \\"e"', "x,y"),
        ("3", "a\\\nb", "c\\"),
    ]


def test_a_stray_quote_costs_every_line_it_swallows(tmp_path):
    path = write(tmp_path, "a.csv", 'id,title\n1,"open\n2,b\n3,"c" d\n4,e\n5,"never closed\n6,f\n')
    rows = list(delimited(path, quoted=True))
    assert [(r.number, r.reason) for r in rows] == [
        (2, "broken quotes"),
        (3, "broken quotes"),
        (4, "broken quotes"),
        (5, None),
        (6, "broken quotes"),
        (7, "broken quotes"),
    ]
    assert [r.raw for r in rows[:3]] == ['1,"open', "2,b", '3,"c" d']


def test_a_missing_column_is_named(tmp_path):
    path = write(tmp_path, "a.csv", "user,item\n1,2\n")
    with pytest.raises(UserError, match=r"expected the column item_id, got user, item"):
        list(delimited(path, required=("user", "item_id")))
    with pytest.raises(UserError, match=r"expected the columns user_id, item_id, got user, item"):
        list(delimited(path, required=("user_id", "item_id"), quoted=True))
    pl.DataFrame({"user": [1]}).write_parquet(tmp_path / "a.parquet")
    with pytest.raises(UserError, match=r"expected the column item, got user"):
        list(parquet(tmp_path / "a.parquet", required=("user", "item")))


def test_json_lines(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", '{"a": 1}\n{"a": \n\n[1]\n{\'a\': "it\'s"}\n' + "[" * 5000 + "\n")
    rows = list(json_lines(path))
    assert [(r.number, r.record) for r in rows if r.reason is None] == [(1, {"a": 1})]
    assert [(r.number, r.reason) for r in rows[1:]] == [(n, "not a JSON object") for n in (2, 4, 5, 6)]
    assert rows[1].raw == '{"a":'
    literal = next(r for r in json_lines(path, literals=True) if r.number == 5)
    assert literal.record == {"a": "it's"}


def test_literals_are_never_evaluated(tmp_path):
    target = tmp_path / "touched"
    path = write(tmp_path, "a.jsonl", f"{{'a': open({str(target)!r}, 'w')}}\n__import__('os')\n")
    assert [r.reason for r in json_lines(path, literals=True)] == ["not a JSON object"] * 2
    assert not target.exists()


def test_a_cut_archive(tmp_path):
    path = write(tmp_path, "a.jsonl.gz", "\n".join(f'{{"a": {i * 7919 % 1000}}}' for i in range(5000)))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(UserError, match=r"a.jsonl.gz: cannot be unpacked"):
        list(json_lines(path))
    path.write_bytes(b"not gzip")
    with pytest.raises(UserError, match=r"a.jsonl.gz: cannot be unpacked"):
        list(json_lines(path))


def test_what_a_template_may_name_reads_in_parquet_as_in_text(tmp_path):
    table = pl.DataFrame({"i": [7], "d": [datetime.date(1995, 1, 1)], "p": pl.Series([9.99], dtype=pl.Float32)})
    table.write_parquet(tmp_path / "a.parquet")
    (row,) = parquet(tmp_path / "a.parquet", required=["i"])
    assert [text(value) for value in row.record.values()] == ["7", "1995-01-01", "9.99"]


def test_parquet_times_become_seconds(tmp_path):
    time = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    table = pl.DataFrame({"t": [time, None], "d": [time.date()] * 2, "n": [1, 2], "l": [["a"], None], "no": [0, 0]})
    table.write_parquet(tmp_path / "a.parquet")
    rows = list(parquet(tmp_path / "a.parquet", columns=("t", "d", "n", "l"), required=("t", "d")))
    assert [r.record for r in rows] == [
        {"t": 1577836800, "d": 1577836800, "n": 1, "l": ["a"]},
        {"t": None, "d": 1577836800, "n": 2, "l": None},
    ]
    with pytest.raises(UserError, match=r"got durations in w; write them as numbers"):
        table = pl.DataFrame({"w": [datetime.timedelta(1)], "i": ["a"]})
        table.write_parquet(tmp_path / "c.parquet")
        list(parquet(tmp_path / "c.parquet", required=("i", "w")))
    write(tmp_path, "b.parquet", "no Parquet")
    with pytest.raises(UserError, match="not a Parquet file"):
        list(parquet(tmp_path / "b.parquet"))
