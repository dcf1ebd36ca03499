import gzip
import json

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fisher_ld.config.params import Columns, DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.readers import read_source
from tests.raws import by_id

NAMES = {"user": "user_id", "item": "item_id", "title": "title"}
TABLE = {"kind": "table", "interactions": "anywhere", "items": "anywhere"}


def write(folder, files):
    """name -> lines (dicts become JSON)"""
    for name, lines in files.items():
        text = "".join((json.dumps(x) if isinstance(x, dict) else x) + "\n" for x in lines)
        content = text.encode("latin-1" if name.endswith(".dat") else "utf-8")
        (folder / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)


def read(folder, source, fields=(), missing=()):
    work = folder / "work"
    work.mkdir()
    return read_source(folder, source, work, fields, missing)


def rows(raw):
    return by_id(raw).select("user", "item", "rating", "timestamp").rows()


def review(user, item, rating=5.0, time=1_400_000_000, **other):
    return {"reviewerID": user, "asin": item, "overall": rating, "unixReviewTime": time, "reviewText": "x"} | other


CASES = {
    "movielens-100k": (
        {
            "ml-100k.inter": [
                "user_id:token\titem_id:token\trating:float\ttimestamp:float",
                "7\t1\t4\t881250949",
                "7\t2\t3\t881250950",
            ],
            "ml-100k.item": [
                "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq",
                "1\tUsual Suspects, The\t1995\tCrime Thriller",
                "2\tLand (1994)\tV\tChildren's Sci-Fi",
                "3\tunkonwn\tunkonwn\tunknown",
            ],
        },
        [("7", "1", 4.0, 881250949), ("7", "2", 3.0, 881250950)],
        [
            ("1", "The Usual Suspects", ["Crime", "Thriller"], "1995"),
            ("2", "Land", ["Children's", "Sci-Fi"], "1994"),
            ("3", None, [], None),
        ],
    ),
    "movielens-1m": (
        {
            "ratings.dat": ["1::2::5::978300760"],
            "movies.dat": ["2::Misérables, Les (1995)::Drama|Musical"],
        },
        [("1", "2", 5.0, 978300760)],
        [("2", "Les Misérables", ["Drama", "Musical"], "1995")],
    ),
    "movielens-latest-small": (
        {
            "ratings.csv": ["userId,movieId,rating,timestamp", "1,31,0.5,1260759144"],
            "movies.csv": [
                "movieId,title,genres",
                '31,"American President, The (1995)",Comedy|Drama',
                "32,Stranger Things,(no genres listed)",
            ],
        },
        [("1", "31", 0.5, 1260759144)],
        [("31", "The American President", ["Comedy", "Drama"], "1995"), ("32", "Stranger Things", [], None)],
    ),
    "amazon-2014": (
        {
            "reviews.jsonl.gz": [review("A1", "B1")],
            "meta.jsonl.gz": [
                "{'asin': 'B1', 'title': \"Kids' Soap &amp; Co\", 'categories': [['Beauty', 'Soap'], ['Beauty']]}",
                {"asin": "B2", "categories": [["Beauty"]], "brand": "Acme"},
            ],
        },
        [("A1", "B1", 5.0, 1400000000)],
        [("B1", "Kids' Soap & Co", ["Beauty", "Soap"], None), ("B2", None, ["Beauty"], "Acme")],
    ),
    "amazon-2018": (
        {
            "reviews.jsonl.gz": [review("A1", "B1", vote="3")],
            "meta.jsonl.gz": [
                {"asin": "B1", "title": "Card", "category": ["Gift Cards", "</span>"], "brand": "Acme"},
                {"asin": "B2", "title": "var x = (new Date()).getTime();", "category": []},
                {"asin": "B1", "title": "Card again", "category": []},
            ],
        },
        [("A1", "B1", 5.0, 1400000000)],
        [("B1", "Card", ["Gift Cards"], "Acme"), ("B2", None, [], None)],
    ),
    "amazon-2023": (
        {
            "reviews.jsonl.gz": [
                {"user_id": "A1", "asin": "X", "parent_asin": "P1", "rating": 4.0, "timestamp": 1588687728923}
            ],
            "meta.jsonl.gz": [
                {"parent_asin": "P1", "title": "Oil", "categories": [], "main_category": "All Beauty", "store": "S"},
                {"parent_asin": "P2", "title": None, "categories": ["Hair"], "main_category": None, "price": 9.5},
            ],
        },
        [("A1", "P1", 4.0, 1588687728)],
        [("P1", "Oil", ["All Beauty"], "S"), ("P2", None, ["Hair"], None)],
    ),
    "amazon-2023-5core": (
        {
            "reviews.csv.gz": ["user_id,parent_asin,rating,timestamp", "A1,P1,4.0,1588687728923"],
            "meta.jsonl.gz": [{"parent_asin": "P1", "title": "Oil", "categories": ["Hair", "Oils"], "store": "S"}],
        },
        [("A1", "P1", 4.0, 1588687728)],
        [("P1", "Oil", ["Hair", "Oils"], "S")],
    ),
}


@pytest.mark.parametrize("kind", CASES)
def test_every_kind(tmp_path, kind):
    files, interactions, items = CASES[kind]
    write(tmp_path, files)
    extra = "year" if kind.startswith("movielens") else "store" if "2023" in kind else "brand"
    category = "Any" if kind.startswith("amazon") else None
    raw = read(tmp_path, DataSource(kind=kind, category=category), ["title", extra, "categories"])
    assert rows(raw) == interactions
    assert raw.items.columns == ["item", "title", "categories", extra]
    assert raw.items.rows() == items
    assert len(raw.rejected) == 0
    assert list(raw.rows) == list(files)


def test_movies_have_a_short_year_where_they_have_one(tmp_path):
    write(tmp_path, {"movies.dat": ["1::Heat (1995)::Crime", "2::Nada::Drama"], "ratings.dat": ["1::1::5::978300760"]})
    raw = read(tmp_path, DataSource(kind="movielens-1m"), ["year", "short_year"])
    assert raw.items.select("year", "short_year").rows() == [("1995", "'95"), (None, None)]


def test_tables_in_every_format(tmp_path):
    table = pl.DataFrame({"u": ["a", "b"], "i": [1, 2], "r": [4.5, 1.0], "t": [1_500_000_000, 1_500_000_001]})
    items = pl.DataFrame({"i": [1, 2], "name": ["One, the first", "Two"], "kind": ["x|y", "y"], "maker": ["m", None]})
    columns = {"user": "u", "item": "i", "rating": "r", "timestamp": "t", "title": "name", "categories": "kind"}
    source = DataSource(**TABLE, columns=Columns(**columns))
    writers = {
        "csv": pl.DataFrame.write_csv,
        "jsonl": pl.DataFrame.write_ndjson,
        "parquet": pl.DataFrame.write_parquet,
    }
    packers = {
        "": lambda data: data,
        ".gz": gzip.compress,
        ".zst": lambda data: pa.compress(data, "zstd", asbytes=True),
    }
    for suffix, writer in writers.items():
        for packed, pack in packers.items():
            folder = tmp_path / f"{suffix}{packed}"
            folder.mkdir()
            for name, frame in (("interactions", table), ("items", items)):
                path = folder / f"{name}.{suffix}"
                writer(frame, path)
                data = path.read_bytes()
                path.unlink()
                path.with_name(f"{path.name}{packed}").write_bytes(pack(data))
            raw = read(folder, source, ["maker"])
            assert rows(raw) == [("a", "1", 4.5, 1_500_000_000), ("b", "2", 1.0, 1_500_000_001)]
            assert raw.items.rows() == [("1", "One, the first", ["x", "y"], "m"), ("2", "Two", ["y"], None)]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
@pytest.mark.parametrize("packed", ["gz", "zst"])
def test_an_archive_that_is_cut_is_refused(tmp_path, suffix, packed):
    path = tmp_path / f"interactions.{suffix}"
    table = pl.DataFrame({"user_id": range(1000), "item_id": 1, "pos": 1})
    (pl.DataFrame.write_csv if suffix == "csv" else pl.DataFrame.write_parquet)(table, path)
    data = path.read_bytes()
    path.unlink()
    whole = gzip.compress(data) if packed == "gz" else pa.compress(data, "zstd", asbytes=True)
    (tmp_path / f"{path.name}.{packed}").write_bytes(whole[:-100])
    pl.DataFrame({"item_id": [1], "title": ["One"]}).write_csv(tmp_path / "items.csv")
    with pytest.raises(UserError, match=rf"interactions.{suffix}.{packed}: cannot be unpacked"):
        read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))


WRITERS = {
    "pipes.csv": lambda path, frame: frame.write_csv(path, separator="|"),
    "pipes.txt": lambda path, frame: frame.write_csv(path, separator="|"),
    "commas.txt": lambda path, frame: frame.write_csv(path),
    "tabs.txt": lambda path, frame: frame.write_csv(path, separator="\t"),
    "lines.json": lambda path, frame: frame.write_ndjson(path),
}


@pytest.mark.parametrize("form", WRITERS)
def test_tables_in_rarer_formats(tmp_path, form):
    table = pl.DataFrame({"user_id": ["a", "b|c"], "item_id": [1, 2], "r": [4.5, 1.0], "pos": [1, 2]})
    items = pl.DataFrame({"item_id": [1, 2], "title": ["One, the | first", 'The "second"\tone']})
    suffix = form.partition(".")[2]
    for name, frame in (("interactions", table), ("items", items)):
        WRITERS[form](tmp_path / f"{name}.{suffix}", frame)
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, rating="r", order="pos")))
    assert rows(raw) == [("a", "1", 4.5, None), ("b|c", "2", 1.0, None)]
    assert raw.items["title"].to_list() == ["One, the | first", 'The "second" one']
    assert not len(raw.rejected)


@pytest.mark.parametrize("without_id", ["", "N/A", None])
@pytest.mark.parametrize("side", ["items", "interactions"])
def test_a_row_without_an_id_does_not_make_numbers_texts(tmp_path, side, without_id):
    """Else the leading zeros of the other file would count."""
    numbers = [{"user_id": "a", "item_id": 7, "title": "Seven", "pos": 1}, {"user_id": "a", "item_id": 8, "pos": 2}]
    texts = ["user_id,item_id,title,pos", "a,07,Seven,1", "a,08,Eight,2"]
    other = {"items": "interactions", "interactions": "items"}[side]
    more = [] if without_id is None else [{"user_id": "a", "item_id": without_id, "title": "?", "pos": 3}]
    write(tmp_path, {f"{side}.jsonl": numbers + more, f"{other}.csv": texts})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")), missing=["N/A"])
    assert {row[1] for row in rows(raw)} == set(raw.items["item"]) == {"7", "8"}


def test_a_number_of_json_reads_the_same_whatever_else_the_block_holds(tmp_path):
    given = [1990.0, 1e16, 1e-7, 1.5, -3]
    items = [{"item_id": n, "title": "T", "year": year} for n, year in enumerate(given)]
    odd = {"item_id": 99, "title": "[REC]", "year": "true"}
    for case, more in enumerate(([], [odd])):
        folder = tmp_path / str(case)
        folder.mkdir()
        write(folder, {"interactions.csv": ["user_id,item_id,pos", "a,1,1"], "items.jsonl": [*items, *more]})
        raw = read(folder, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")), fields=["year"])
        assert raw.items["year"].to_list()[:5] == ["1990", "10000000000000000", "0.0000001", "1.5", "-3"]


def test_a_column_that_no_item_has_is_refused_in_a_long_file_too(tmp_path, monkeypatch):
    monkeypatch.setattr("fisher_ld.datasets.table.SAMPLED_ITEMS", 2)
    items = [{"item_id": n, "title": "T", "tags": ["t"]} for n in range(5)]
    write(tmp_path, {"interactions.csv": ["user_id,item_id,pos", "a,1,1"], "items.jsonl": items})
    with pytest.raises(UserError, match="no row has a field cat; there are item_id, title, tags"):
        read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos", categories="cat")))


def test_an_order_may_have_a_decimal_comma(tmp_path):
    lines = ["user_id;item_id;pos", "a;x;2,0", "a;y;1"]
    write(tmp_path, {"interactions.csv": lines, "items.jsonl": [{"item_id": "x", "title": "X"}]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    assert by_id(raw).rows() == [("a", "x", None, None, 2), ("a", "y", None, None, 1)]


def test_a_table_with_order_only(tmp_path):
    write(
        tmp_path,
        {
            "interactions.csv": ["user_id,item_id,pos", "a,x,2", "a,y,1"],
            "items.jsonl": [{"item_id": "x", "title": "X"}],
        },
    )
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    assert by_id(raw).rows() == [("a", "x", None, None, 2), ("a", "y", None, None, 1)]


def test_every_reason(tmp_path):
    bad = {
        "missing user id": ",x,5,10,1",
        "missing item id": "a, ,5,10,1",
        "missing rating": "a,x,,10,1",
        "impossible rating": "a,x,good,10,1",
        "missing time in seconds since 1970": "a,x,5,,1",
        "impossible time in seconds since 1970": "a,x,5,1588687728923,1",  # milliseconds
        "missing order": "a,x,5,10,",
        "impossible order": "a,x,5,10,nan",
        "order that is no whole number": "a,x,5,10,0.125",
        "wrong number of fields": "a,x",
        "broken quotes": 'a,"x" y,5,10,1',
    }
    lines = ["user_id,item_id,r,t,o", "a,x,-3,10,1", *bad.values(), "b,x,5,11,2"]
    items = [{"item_id": "x", "title": "X"}, {"title": "no id"}, "{broken"]
    write(tmp_path, {"interactions.csv": lines, "items.jsonl": items})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, rating="r", timestamp="t", order="o")))
    assert rows(raw) == [("a", "x", -3.0, 10), ("b", "x", 5.0, 11)]  # a table's scale may be any
    of_interactions = raw.rejected.filter(pl.col("file") == "interactions.csv")
    expected = [("interactions.csv", i + 3, reason, line) for i, (reason, line) in enumerate(bad.items())]
    assert of_interactions.rows() == expected
    assert raw.rejected.filter(pl.col("file") == "items.jsonl").rows() == [
        ("items.jsonl", 2, "missing item id", '{"title": "no id"}'),
        ("items.jsonl", 3, "not a JSON object", "{broken"),
    ]
    assert raw.rows == {"interactions.csv": 13, "items.jsonl": 3}


@pytest.mark.parametrize("rating", [0, 6, -1, "NaN", 1e400, True, [5]])
def test_impossible_ratings_of_a_known_scale(tmp_path, rating):
    reviews = [review("a", "x"), review("b", "x", rating)]
    write(tmp_path, {"reviews.jsonl.gz": reviews, "meta.jsonl.gz": [{"asin": "x", "title": "X"}]})
    raw = read(tmp_path, DataSource(kind="amazon-2018", category="Any"))
    reason = "missing rating" if rating == [5] else "impossible rating"
    assert [r[:3] for r in raw.rejected.rows()] == [("reviews.jsonl.gz", 2, reason)]
    assert len(rows(raw)) == 1


@pytest.mark.parametrize("time", [0, -5, 5_000_000_000, "yesterday", float("inf")])
def test_impossible_times(tmp_path, time):
    write(tmp_path, {"reviews.jsonl.gz": [review("a", "x", time=time)], "meta.jsonl.gz": [{"asin": "x", "title": "X"}]})
    raw = read(tmp_path, DataSource(kind="amazon-2018", category="Any"))
    assert raw.rejected["reason"].to_list() == ["impossible time in seconds since 1970"]
    assert rows(raw) == []


def test_unreadable_parquet_rows_are_kept_as_json(tmp_path):
    pl.DataFrame({"user_id": ["a", None], "item_id": ["x", "y"], "pos": [1, 2]}).write_parquet(
        tmp_path / "interactions.parquet"
    )
    write(tmp_path, {"items.jsonl": [{"item_id": "x", "title": "X"}]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    (rejected,) = raw.rejected.rows()
    assert rejected[:3] == ("interactions.parquet", 2, "missing user id")
    assert json.loads(rejected[3]) == {"user_id": None, "item_id": "y", "pos": 2}


def test_parquet_bytes_that_are_no_utf8_are_rejected_on_both_sides(tmp_path):
    ids = [b"x", b"\xff\x01", b"\xfe\x01", b"z"]
    likes = pl.DataFrame({"user_id": ["a"] * 4, "item_id": ids, "pos": [1, 2, 3, 4]})
    items = pl.DataFrame({"item_id": ids, "title": [b"X", b"Y", b"Y", b"nan"], "tags": [[b"t"], [], [], [b"t", b"u"]]})
    likes.write_parquet(tmp_path / "interactions.parquet")
    items = items.vstack(pl.DataFrame({"item_id": [b"v", b"w"], "title": [b"V", b"\xff"], "tags": [[b"\xff"], []]}))
    items.write_parquet(tmp_path / "items.parquet")
    columns = Columns(**NAMES, order="pos", categories="tags")
    raw = read(tmp_path, DataSource(**TABLE, columns=columns), missing=["nan"])
    assert [row[1] for row in rows(raw)] == ["x", "z"]
    assert raw.items.rows() == [("x", "X", ["t"]), ("z", None, ["t", "u"])]
    assert [row[:3] for row in raw.rejected.rows()] == [
        *(("interactions.parquet", row, "wrong encoding") for row in (2, 3)),
        *(("items.parquet", row, "wrong encoding") for row in (2, 3, 5, 6)),
    ]


def test_batches_do_not_matter(tmp_path, monkeypatch):
    lines = [f"u{i % 7},i{i % 5},{i % 7},{1_000_000 + i}" for i in range(50)]  # ratings 0 and 6 are impossible
    write(
        tmp_path,
        {
            "ratings.csv": ["userId,movieId,rating,timestamp", *lines],
            "movies.csv": ["movieId,title,genres", "i1,One,A"],
        },
    )
    source = DataSource(kind="movielens-latest-small")
    whole = read(tmp_path, source)
    expected, rejected = by_id(whole), whole.rejected
    (tmp_path / "work" / "interactions.parquet").unlink()
    (tmp_path / "work").rmdir()
    monkeypatch.setattr("fisher_ld.datasets.blocks.SIZE", 50)
    parts = read(tmp_path, source)
    assert by_id(parts).equals(expected)
    assert parts.rejected.equals(rejected)
    assert len(rejected) == sum(i % 7 in (0, 6) for i in range(50))


def test_an_unknown_field_is_named(tmp_path):
    write(tmp_path, CASES["movielens-1m"][0])
    with pytest.raises(UserError, match=r"names \{director\}.*may name \{title\}, \{categories\}, \{year\}"):
        read(tmp_path, DataSource(kind="movielens-1m"), ["title", "director"])


def test_a_file_with_a_header_only(tmp_path):
    write(tmp_path, CASES["movielens-latest-small"][0] | {"ratings.csv": ["userId,movieId,rating,timestamp"]})
    with pytest.raises(UserError, match=r"ratings.csv: expected rows, got none"):
        read(tmp_path, DataSource(kind="movielens-latest-small"))


def test_a_table_in_parts_is_read_whole_and_an_empty_part_is_none(tmp_path):
    head = "user_id,item_id,pos"
    files = {"interactions-00000.csv": [head], "interactions-00001.csv": [head, "a,x,1", "a,,2"]}
    write(tmp_path, files | {"interactions-00002.jsonl": [{"user_id": "b", "item_id": "y", "pos": 3}]})
    write(tmp_path, {"items-00000.csv": ["item_id,title", "x,X"], "items-00001.csv": ["item_id;title", "y;Y", ";Z"]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    assert rows(raw) == [("a", "x", None, None), ("b", "y", None, None)]
    assert raw.items["title"].to_list() == ["X", "Y"]
    assert [row[:3] for row in raw.rejected.rows()] == [
        ("interactions-00001.csv", 3, "missing item id"),
        ("items-00001.csv", 3, "missing item id"),
    ]


@pytest.mark.parametrize("content", [b"", b"\n", b"\xef\xbb\xbf", "\ufeff".encode("utf-16"), gzip.compress(b"")])
@pytest.mark.parametrize("place", [0, 1])
def test_an_empty_part_is_left_out_and_said(tmp_path, capsys, content, place):
    packed = ".gz" * (content[:2] == b"\x1f\x8b")
    for name, lines in (("interactions", ["user_id,item_id,pos", "a,x,1"]), ("items", ["item_id,title", "x,X"])):
        write(tmp_path, {f"{name}-{1 - place:05d}.csv": lines})
        (tmp_path / f"{name}-{place:05d}.csv{packed}").write_bytes(content)
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    assert rows(raw) == [("a", "x", None, None)] and raw.items["title"].to_list() == ["X"]
    assert f"items-{place:05d}.csv{packed}: empty, left out" in capsys.readouterr().err


def test_parts_tell_time_in_their_own_unit(tmp_path, capsys):
    head, time = "user_id,item_id,time", 1_500_000_000
    times = [[time, 0], [time * 1000 + 5], ["2017-07-14T02:40:00Z"], [time, time], [0]]
    parts = {f"interactions-{i:05d}.csv": [head, *(f"a,x,{one}" for one in some)] for i, some in enumerate(times)}
    write(tmp_path, parts | {"items.csv": ["item_id,title", "x,X"]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, timestamp="time")))
    assert [row[3] for row in rows(raw)] == [time] * 5
    assert [row[:3] for row in raw.rejected.rows()] == [
        ("interactions-00000.csv", 3, "no time (0)"),
        ("interactions-00004.csv", 2, "no time (0)"),
    ]
    said = [line for line in capsys.readouterr().err.splitlines() if ": time" in line]
    assert [line.split(".csv")[0][-1] for line in said] == list("0123")


@pytest.mark.parametrize("timed", [True, False])
def test_a_table_cut_into_parts_keeps_its_order(tmp_path, timed):
    head, lines = "user_id,item_id,time", [f"a,{i},1500000000" for i in (3, 1, 4, 1, 5, 9, 2, 6)]
    cut = {
        f"interactions-{i:05d}.csv": [head, *lines[begin:end]] for i, begin, end in ((0, 0, 5), (1, 5, 6), (2, 6, 8))
    }
    found = []
    for name, files in (("one", {"interactions.csv": [head, *lines]}), ("parts", cut)):
        (tmp_path / name).mkdir()
        write(tmp_path / name, files | {"items.csv": ["item_id,title", "1,X"]})
        columns = Columns(**NAMES, timestamp="time") if timed else Columns(**NAMES, order="time")
        likes = by_id(read(tmp_path / name, DataSource(**TABLE, columns=columns)))
        found.append(likes.sort("user", "timestamp", "order", maintain_order=True))
    assert found[0]["item"].equals(found[1]["item"])
    assert found[1]["item"].to_list() == list("31415926")


@pytest.mark.parametrize("numbers", ["interactions", "items"])
def test_a_number_on_one_side_is_text_with_zeros_on_the_other(tmp_path, numbers):
    likes = pl.DataFrame({"user_id": ["a", "a"], "item_id": [7, 40], "pos": [1, 2]})
    items = pl.DataFrame({"item_id": [7, 40], "title": ["X", "Y"]})
    zeros = pl.col("item_id").cast(pl.String).str.zfill(4)
    frames = {"interactions": likes, "items": items}
    for name, frame in frames.items():
        if name == numbers:
            frame.write_parquet(tmp_path / f"{name}.parquet")
        else:
            frame.with_columns(zeros).write_csv(tmp_path / f"{name}.csv")
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    assert [row[1] for row in rows(raw)] == raw.items["item"].to_list() == ["7", "40"]


FORMS = {
    "json": ("jsonl", lambda number: {"item_id": number}),
    "json float": ("jsonl", lambda number: {"item_id": float(number)}),
    "csv": ("csv", lambda number: f"{number}"),
    "csv with zeros": ("csv", lambda number: f"{number:020d}"),
    "csv to the cent": ("csv", lambda number: f"{number}.00"),
    "csv with a comma": ("csv", lambda number: f'"{number},0"'),
    "csv of floats": ("csv", lambda number: f"{float(number)}"),
    "parquet": ("parquet", pl.Int64),
    "parquet float": ("parquet", pl.Float64),
    "parquet decimal": ("parquet", pl.Decimal(20, 2)),
}


@pytest.mark.parametrize("likes", FORMS)
@pytest.mark.parametrize("items", FORMS)
def test_ids_that_mean_the_same_are_the_same(tmp_path, likes, items):
    numbers = [7, 40, 10**16]
    for name, form, more in (("interactions", likes, {"user_id": "a", "pos": 1}), ("items", items, {"title": "X"})):
        suffix, write_id = FORMS[form]
        path = tmp_path / f"{name}.{suffix}"
        if suffix == "parquet":
            ids = pl.Series("item_id", numbers).cast(write_id)
            pl.DataFrame([ids]).with_columns(pl.lit(value).alias(key) for key, value in more.items()).write_parquet(
                path
            )
        elif suffix == "csv":
            write(tmp_path, {path.name: [",".join(["item_id", *more])] + [
                ",".join([write_id(number), *map(str, more.values())]) for number in numbers
            ]})  # fmt: skip
        else:
            write(tmp_path, {path.name: [write_id(number) | more for number in numbers]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, order="pos")))
    found, rest = [row[1] for row in rows(raw)], raw.items["item"].to_list()
    if "csv with zeros" in (likes, items) and all(FORMS[form][0] == "csv" for form in (likes, items)):
        assert (found == rest) == (likes == items)  # text on both sides: zeros count
    else:
        assert found == rest == ["7", "40", "10000000000000000"]


def test_the_missing_word_of_a_dump_with_escaped_quotes(tmp_path):
    likes = ["user_id,item_id,r,pos", r'"a\"b","x",\N,1', r'"DOM\joe","x",5,2', r'\N,"x",5,3']
    items = ["item_id,title", r'"x","A \"B\""', r"y,\N"]
    write(tmp_path, {"interactions.csv": likes, "items.csv": items})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, rating="r", order="pos")), missing=[r"\N"])
    assert [row[:3] for row in rows(raw)] == [("DOM\\joe", "x", 5.0)]
    assert raw.rejected["reason"].to_list() == ["missing rating", "missing user id"]
    assert raw.items["title"].to_list() == ['A "B"', None]


def test_a_decimal_comma_in_ratings(tmp_path, capsys):
    lines = ["user_id;item_id;r;pos", "a;x;4,5;1", "a;y;3;2", "a;x;true;3", "a;y;1,000,0;4"]
    write(tmp_path, {"interactions.csv": lines, "items.csv": ["item_id;title", "x;X"]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, rating="r", order="pos")))
    assert [row[2] for row in rows(raw)] == [4.5, 3.0, 1.0]
    assert "1 ratings hold a comma, which is read as a decimal one" in capsys.readouterr().err
    assert raw.rejected["reason"].to_list() == ["impossible rating"]


def test_delimiter_and_encoding_are_taken_as_set(tmp_path, capsys):
    (tmp_path / "interactions.csv").write_text("user_id;item_id;pos\na;x;1\n")
    (tmp_path / "items.csv").write_bytes("item_id;title\nx;Ж\n".encode("cp1251"))
    source = DataSource(**TABLE, columns=Columns(**NAMES, order="pos"), delimiter=";", encoding="cp1251")
    assert read(tmp_path, source).items["title"].to_list() == ["Ж"]
    assert "items.csv: read as cp1251, semicolon-separated" in capsys.readouterr().err


def test_times_of_parquet_keep_their_order_and_the_year_2500_is_none(tmp_path):
    times = [1_577_836_800_000_000_003, 1_577_836_800_000_000_002, -1_500_000_000]
    table = pa.table({"user_id": ["a"] * 3, "item_id": ["x"] * 3, "t": pa.array(times, pa.timestamp("ns"))})
    late = table.set_column(2, "t", pa.array([16_725_225_600_000_000] * 3, pa.timestamp("us")))
    pq.write_table(table, tmp_path / "interactions-0.parquet")
    pq.write_table(late, tmp_path / "interactions-1.parquet")
    write(tmp_path, {"items.csv": ["item_id,title", "x,X"]})
    raw = read(tmp_path, DataSource(**TABLE, columns=Columns(**NAMES, timestamp="t")))
    assert raw.interactions.select("timestamp", "order").collect().rows() == [
        (1_577_836_800, 3),
        (1_577_836_800, 2),
        (-2, 500_000_000),
    ]
    assert raw.rejected["reason"].to_list() == ["impossible time in seconds since 1970"] * 3
