"""In columns or row by row: the same rows, reasons and numbers."""

import gzip
import random
import uuid
from decimal import Decimal

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.datasets import blocks
from fisher_ld.datasets.blocks import delimited_blocks, json_blocks, parquet_blocks
from fisher_ld.datasets.rows import delimited, json_lines, parquet
from fisher_ld.datasets.streams import find_encoding, utf8
from fisher_ld.datasets.titles import text

PIECES = [
    "7", "007", "7.0", "", " ", "a b", '"q"', '"a,b"', '"a\nb"', '"a""b"', 'a"b', '"a" b', '"', "é", "\udce9", "\t",
    "\x0b", "\x00", "\r", "x" * 40,
]  # fmt: skip
VALUES = [
    "7", "7.5", "-0",
    '"x"', '""', "null", "true", "NaN", "[1]", '{"a": 1}', '"\\u00e9"', '"\\ud800"', '"\\ud83d\\ude00"', '"\\u0000"',
    "01", '"["', "1e3", '"\x1f"', '"\t"',
]  # fmt: skip


def outcome(found):
    """Rows and their values, and why the others cannot be read."""
    rows, bad = [], []
    for block in found:
        rows += zip(block.numbers, block.table.rows(), strict=True)
        rows = [*rows]
        for i, _ in enumerate(block.numbers):
            assert isinstance(block.raw(i), str)
        bad += [(row.number, row.reason, row.raw) for row in block.bad]
    return rows, bad


def expected(found, names):
    found = list(found)
    rows = [(row.number, tuple(text(row.record.get(name)) for name in names)) for row in found if row.reason is None]
    return rows, [(row.number, row.reason, row.raw) for row in found if row.reason is not None]


@pytest.mark.parametrize("size", [1, 60, 1 << 20])
@pytest.mark.parametrize("quoted", [True, False])
@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_delimited_blocks_are_what_the_careful_reader_gives(tmp_path, monkeypatch, size, quoted, delimiter):
    monkeypatch.setattr(blocks, "SIZE", size)
    rng = random.Random(size)
    for case in range(60):
        lines = ["u,i,r"]
        for _ in range(rng.randrange(12)):
            odd = rng.random() < 0.3
            fields = [rng.choice(PIECES) if odd else rng.choice(PIECES[:4]) for _ in range(rng.choice([3] * 9 + [2]))]
            lines.append(",".join(fields) if fields != [""] * 3 or rng.random() < 0.5 else "")
        content = ("\n" if case % 2 else "\r\n").join(lines) + "\n" * (case % 3 > 0)
        path = tmp_path / f"{case}.csv"
        path.write_bytes(content.replace(",", delimiter).encode("utf-8", "surrogateescape"))
        careful = expected(delimited(path, delimiter, quoted=quoted), ["i", "u"])
        assert outcome(delimited_blocks(path, ["i", "u"], delimiter, quoted=quoted)) == careful


@pytest.mark.parametrize("line", ["\t \t", " \t\t", "\t\u00a0\t", "\t\t", " ", ""])
def test_a_line_of_blanks_between_good_rows_is_none(tmp_path, line):
    path = tmp_path / "a.tsv"
    path.write_text(f"u\ti\tr\na\tx\t1\n{line}\nb\ty\t2\n", encoding="utf-8")
    assert outcome(delimited_blocks(path, ["i", "u"], "\t")) == ([(2, ("x", "a")), (4, ("y", "b"))], [])


@pytest.mark.parametrize("size", [1, 60, 1 << 20])
def test_json_blocks_are_what_the_careful_reader_gives(tmp_path, monkeypatch, size):
    monkeypatch.setattr(blocks, "SIZE", size)
    rng = random.Random(size)
    for case in range(60):
        lines = []
        for _ in range(rng.randrange(12)):
            odd = rng.random() < 0.3
            one, other = (rng.choice(VALUES if odd else VALUES[:5]) for _ in range(2))
            lines.append(f'{{"i": {one}, "u": {other}, "z": "é"}}' + ("x" if odd and rng.random() < 0.2 else ""))
            lines += [""] * (rng.random() < 0.05)
        path = tmp_path / f"{case}.jsonl"
        path.write_text("\n".join(lines))
        (rows, bad), careful = outcome(json_blocks(path, ["i", "u"])), expected(json_lines(path), ["i", "u"])
        assert bad == careful[1]
        assert [(n, plain(v)) for n, v in rows] == [(n, plain(v)) for n, v in careful[0]]


FOLDED = [
    '["Books", "Fiction"]', '[["a, b", "c"], ["d"]]', "[]", "{}", '{"name": "Books", "n": 1.5, "m": null, "t": true}',
    '["\\u00e9 \\"q\\" \\n"]', '["é\\ud83d\\ude00"]',
]  # fmt: skip
LIKE_FOLDED = [
    '" [REC]"',
    '"\\u005b1408]"',
    '"\\n[1]"',
    '"\u00a0[1]"',
    "1990.0",
    "1e16",
    '"[REC]"',
    '"{x}"',
    '"["',
    '{"i": ["deeper"]}',
    "['x']",
    '["\\ud800"]',
    '{"a": 1, "a": 2}',
    "true",
]


@pytest.mark.parametrize("size", [1, 60, 1 << 20])
def test_records_of_json_blocks_hold_lists_and_objects_as_the_careful_reader_has_them(tmp_path, monkeypatch, size):
    monkeypatch.setattr(blocks, "SIZE", size)
    rng, in_columns = random.Random(size), 0
    for case in range(80):
        values = VALUES[:5] + FOLDED + LIKE_FOLDED * (case % 2)
        inner = "i" if case % 4 == 3 else "k"
        lines = [
            f'{{"u": {rng.choice(values)}, "i": {rng.choice(values)}, "z": {{"{inner}": ["x"]}}}}'
            for _ in range(rng.randrange(12))
        ]
        path = tmp_path / f"{case}.jsonl"
        path.write_text("\n".join(lines))
        found = list(json_blocks(path, ["i", "u"], nested=True, literals=True))
        in_columns += sum(block.careful is None for block in found)
        records = [record for block in found for record in block.records()]
        careful = [row.record for row in json_lines(path, literals=True) if row.reason is None]
        assert [[folded(record.get(name)) for name in ("i", "u")] for record in records] == [
            [folded(record.get(name)) for name in ("i", "u")] for record in careful
        ]
    assert in_columns > 20


def folded(value):
    return value if isinstance(value, list | dict) else plain([text(value)])


def plain(values):
    """A number and a truth value as either reader writes them."""
    return tuple({"True": "true", "-0": "0", "1000.0": "1000"}.get(value, value) for value in values)


def test_numbers_of_rows_go_on_behind_a_careful_block(tmp_path, monkeypatch):
    monkeypatch.setattr(blocks, "SIZE", 12)
    path = tmp_path / "a.csv"
    path.write_text('u,i\n1,2\n"3\n",4\n5,6\n7\n8,9\n10,11\n')
    rows, bad = outcome(delimited_blocks(path, ["u", "i"], quoted=True))
    assert rows == [(2, ("1", "2")), (3, ("3", "4")), (5, ("5", "6")), (7, ("8", "9")), (8, ("10", "11"))]
    assert bad == [(6, "wrong number of fields", "7")]


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        ("a,é\n".encode(), "utf-8"),
        ("\ufeffa,é\n".encode(), "utf-8"),
        ("a,é\n".encode("utf-16"), "utf-16"),
        ("a,b\n".encode("utf-16-le"), "utf-16-le"),
        ("a,b\n".encode("utf-16-be"), "utf-16-be"),
        ("a,é\n".encode("cp1252"), "cp1252"),
        ("é\né\n".encode() + b"\xe9\n", "utf-8"),
        (b"plain\n", "utf-8"),
        (b"", "utf-8"),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_encodings_are_found_and_read(tmp_path, content, encoding, packed):
    path = tmp_path / f"a.csv{packed}"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": lambda x: pa.compress(x, "zstd", asbytes=True)}[packed]
    path.write_bytes(pack(content))
    assert find_encoding(path) == encoding
    with utf8(path, encoding) as file:
        assert file.read().decode("utf-8", "replace").splitlines()[:1] in ([], ["a,é"], ["a,b"], ["é"], ["plain"])


def test_a_cut_zst(tmp_path):
    path = tmp_path / "a.csv.zst"
    path.write_bytes(pa.compress(b"u,i\n" + b"1,2\n" * 99_999, "zstd", asbytes=True)[:-9])
    with pytest.raises(UserError, match=r"a.csv.zst: cannot be unpacked"):
        list(delimited_blocks(path, ["u"]))


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_file_of_another_encoding_than_is_set(tmp_path, packed):
    path = tmp_path / f"a.csv{packed}"
    path.write_bytes((gzip.compress if packed else bytes)("u,i\n1,é\n".encode()))
    with pytest.raises(UserError, match=rf"a.csv{packed}: expected text in utf-16, got other bytes .* source.encoding"):
        list(delimited_blocks(path, ["u"], encoding="utf-16"))


KINDS = {
    "bytes": (pa.binary(), [b"a", b"\xff", None, "é".encode()]),
    "large": (pa.large_binary(), [b"a", b"\xff", None, "é".encode()]),
    "fixed": (pa.binary(2), [b"aa", b"\xff\xff", None, "é".encode()]),
    "text": (pa.string(), [b"a", b"\xff", None, "é".encode()]),
    "categories": (pa.dictionary(pa.int32(), pa.binary()), [b"a", b"\xff", None, "é".encode()]),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 3, 50])
def test_parquet_text_that_is_no_utf8(tmp_path, monkeypatch, kind, size):
    monkeypatch.setattr(blocks, "BATCH_ROWS", size)
    form, values = KINDS[kind]
    column = pa.array(values).view(form) if kind == "text" else pa.array(values).cast(form)
    pq.write_table(pa.table({"u": [1, 2, 3, 4], "i": column}), tmp_path / "a.parquet")
    found, bad = outcome(parquet_blocks(tmp_path / "a.parquet", ["i", "u"]))
    assert [(n, value[-1:] if (value := row[0]) else value, row[1]) for n, row in found] == [
        (1, "a", "1"),
        (3, None, "3"),
        (4, "é", "4"),
    ]
    ((number, reason, raw),) = bad
    assert (number, reason) == (2, "wrong encoding") and "xff" in raw
    records = [row.record["i"] for row in parquet(tmp_path / "a.parquet")]
    assert records[1].strip(b"\xff") == b"" and [records[0][-1], *records[2:]] == ["a", None, "é"]


def test_parquet_ids_as_uuids(tmp_path):
    name = uuid.UUID(int=7)
    pq.write_table(pa.table({"i": pa.array([name.bytes, None], pa.uuid())}), tmp_path / "a.parquet")
    (block,) = parquet_blocks(tmp_path / "a.parquet", ["i"])
    assert block.table["i"].to_list() == [row.record["i"] for row in parquet(tmp_path / "a.parquet")]
    assert block.table["i"].to_list() == [str(name), None]


def test_text_of_another_encoding_is_read_in_columns(tmp_path):
    path = tmp_path / "a.csv"
    path.write_bytes("u,i\rRené,1\r".encode("cp1252"))
    (block,) = delimited_blocks(path, ["u", "i"], encoding="cp1252")
    assert block.table.equals(pl.DataFrame({"u": ["René"], "i": ["1"]}))


NANOSECONDS = [1_577_836_800_123_456_789, 1_577_836_800_123_456_790, -1_500_000_000, -1, 0, None]


@pytest.mark.parametrize(
    ("unit", "values", "texts"),
    [
        (
            "ns",
            NANOSECONDS,
            ["1577836800.123456789", "1577836800.123456790", "-1.500000000", "-0.000000001", "0", None],
        ),
        ("us", [16_725_225_600_000_000, -1_500_000], ["16725225600", "-1.500000"]),  # of the year 2500
        ("s", [-2], ["-2"]),
    ],
)
def test_time_stamps_of_parquet_are_told_to_the_last_digit_of_their_unit(tmp_path, unit, values, texts):
    pq.write_table(pa.table({"t": pa.array(values, pa.timestamp(unit))}), tmp_path / "a.parquet")
    (block,) = parquet_blocks(tmp_path / "a.parquet", ["t"])
    assert block.table["t"].to_list() == texts


@pytest.mark.parametrize("odd", [b"", b"{broken\n"], ids=["in columns", "row by row"])
def test_of_a_field_that_stands_twice_the_first_counts_and_it_is_said(tmp_path, capsys, odd):
    """Readers differ in which of the two they take."""
    path = tmp_path / "ratings.jsonl"
    lines = [b'{"i":"1","u":"a","i":"2"}', b'{"u":null,"i":"3"}', b'{"i":"4"}', b'{"i":"5","u":"b","more":{"i":"6"}}']
    path.write_bytes(b"\n".join(lines) + b"\n" + odd)
    rows, bad = outcome(json_blocks(path, ["i", "u"]))
    assert [reason for _, reason, _ in bad] == ["not a JSON object"] * bool(odd)
    assert rows == [(1, ("1", "a")), (2, ("3", None)), (3, ("4", None)), (4, ("5", "b"))]
    assert capsys.readouterr().err.count("ratings.jsonl: a field stands twice in the object of line 1, ") == 1


def test_null_and_lacking_fields_stand_once(tmp_path, capsys):
    path = tmp_path / "ratings.jsonl"
    path.write_text('{"i":"1","u":null}\n{"i":"i"}\n{"u": null, "i" : "3"}\n')
    rows, _ = outcome(json_blocks(path, ["i", "u"]))
    assert rows == [(1, ("1", None)), (2, ("i", None)), (3, ("3", None))] and capsys.readouterr().err == ""


def test_a_delimited_text_that_looks_like_a_list_stays_a_text(tmp_path):
    path = tmp_path / "items.csv"
    path.write_text("i,title\n1,[1408]\n2,{}\n")
    assert [record["title"] for block in delimited_blocks(path, ["i", "title"]) for record in block.records()] == [
        "[1408]",
        "{}",
    ]


def test_a_mark_between_columns_may_be_any_letter(tmp_path):
    (tmp_path / "a.csv").write_text("u§i\na§é\n", encoding="utf-8")
    (block,) = delimited_blocks(tmp_path / "a.csv", ["i", "u"], "§", quoted=True)
    assert block.table.rows() == [("é", "a")]


def test_parquet_ids_of_many_digits(tmp_path):
    ids = [Decimal(10**40), None]
    pq.write_table(pa.table({"i": pa.array(ids, pa.decimal256(50, 0))}), tmp_path / "a.parquet")
    (block,) = parquet_blocks(tmp_path / "a.parquet", ["i"])
    assert block.table["i"].to_list() == [str(10**40), None]
