import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import read_lists, read_sequences
from fisher_ld.batches.prompts import read_template
from fisher_ld.config.params import Columns, DataSource
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.preprocess import preprocess
from tests.given import given

COLUMNS = {"user": "user_id", "item": "item_id", "title": "title"}
TABLE = DataSource(
    kind="table",
    interactions="anywhere",
    items="anywhere",
    columns=Columns(**COLUMNS, rating="rating", timestamp="time", categories="kinds"),
)
FILES = ("items", "users", "sequences", "train", "val", "test_popularity", "test_uniform", "rejected")
EVAL = ("val", "test_popularity", "test_uniform")


def data_set(source=TABLE, **changes):
    return given({"data_sets": {"mine": {"source": source.model_dump(), **changes}}}).data_sets["mine"]


DATA = data_set(history_length=4, history_block=2, train_positives=3, train_negatives=2, eval_negatives=5)


@pytest.fixture(scope="module")
def raw_dir(tmp_path_factory):
    """60 users with 5 to 30 interactions out of 40 items, popular ones more often, a quarter of them not positive."""
    folder = tmp_path_factory.mktemp("raw")
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(2, 42)
    rows = []
    for user in range(60):
        items = rng.choice(40, rng.integers(5, 31), replace=False, p=chances / chances.sum())
        times = 1_499_990_400 + rng.integers(0, 20, len(items)) * 86_400  # midnights in UTC, with ties
        ratings = np.where(rng.random(len(items)) < 0.25, 2, 5)
        rows += [(f"user{user}", f"item{i}", r, t) for i, r, t in zip(items, ratings, times, strict=True)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "time"], orient="row")
    table.sample(fraction=1, shuffle=True, seed=1).write_csv(folder / "interactions.csv")
    items = {"item_id": [f"item{i}" for i in range(40)], "title": [f"Title {i}" for i in range(40)]}
    pl.DataFrame(items | {"kinds": ["a|b" if i % 2 else "c" for i in range(40)]}).write_csv(folder / "items.csv")
    return folder


@pytest.fixture(scope="module")
def processed(raw_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "processed"
    preprocess(raw_dir, out, DATA, 0)
    return out


def table(folder, name):
    return pl.read_parquet(folder / f"{name}.parquet")


def test_columns_and_types(processed):
    lists = {
        "list": pl.Int32,
        "user": pl.Int32,
        "start": pl.Int32,
        "position": pl.Int32,
        "candidates": pl.List(pl.Int32),
        "positive": pl.Int16,
    }
    expected = {name: lists for name in ("train", *EVAL)} | {
        "items": {
            "item": pl.Int32,
            "item_id": pl.String,
            "title": pl.String,
            "categories": pl.List(pl.Enum(["a", "b", "c"])),
            "text": pl.String,
            "count": pl.Int32,
        },
        "users": {
            "user": pl.Int32,
            "user_id": pl.String,
            "length": pl.Int32,
            "train_positives": pl.Int32,
            "fold": pl.Int8,
            "zero_shot": pl.Boolean,
        },
        "sequences": {"user": pl.Int32, "items": pl.List(pl.Int32), "timestamps": pl.List(pl.Int64)},
        "rejected": {"file": pl.String, "row": pl.Int64, "reason": pl.String, "raw": pl.String},
    }
    for name, schema in expected.items():
        assert dict(table(processed, name).schema) == schema, name
        if name != "rejected":
            first = table(processed, name).columns[0]
            numbers = table(processed, name)[first].to_list()
            assert numbers == list(range(len(numbers)))
    assert {p.name for p in processed.iterdir()} == {"prompt.json", *(f"{name}.parquet" for name in FILES)}


def test_sequences_are_the_positives_in_order(raw_dir, processed):
    raw = pl.read_csv(raw_dir / "interactions.csv").with_row_index("row").filter(pl.col("rating") >= 4)
    items, users, sequences = table(processed, "items"), table(processed, "users"), table(processed, "sequences")
    numbers = dict(zip(items["item_id"], items["item"], strict=True))
    for user, name, length in users.select("user", "user_id", "length").iter_rows():
        own = raw.filter((pl.col("user_id") == name) & pl.col("item_id").is_in(list(numbers))).sort("time", "row")
        assert sequences["items"][user].to_list() == [numbers[i] for i in own["item_id"]]
        assert sequences["timestamps"][user].to_list() == own["time"].to_list()
        assert length == len(own) >= 5
    assert min(np.bincount(np.concatenate(read_sequences(processed)))) >= 5


def test_items_have_text_categories_and_train_counts(processed):
    items, sequences = table(processed, "items"), read_sequences(processed)
    train = np.concatenate([sequence[:-2] for sequence in sequences])
    assert items["count"].to_list() == np.bincount(train, minlength=len(items)).tolist()
    for name, title, text, kinds in items.select("item_id", "title", "text", "categories").iter_rows():
        number = int(name.removeprefix("item"))
        assert text == title == f"Title {number}"
        assert kinds == (["a", "b"] if number % 2 else ["c"])


def test_lists_hold_the_positive_and_untouched_negatives(raw_dir, processed):
    raw, sequences = pl.read_csv(raw_dir / "interactions.csv"), read_sequences(processed)
    user_ids, item_ids = table(processed, "users")["user_id"], table(processed, "items")["item_id"]
    touched = set(raw.select("user_id", "item_id").iter_rows())
    for name in ("train", *EVAL):
        lists = read_lists(processed, name)
        for user, position, place, candidates in zip(
            lists.user, lists.position, lists.positive, lists.candidates, strict=True
        ):
            assert len(set(candidates)) == len(candidates) == (3 if name == "train" else 6)
            assert candidates[place] == sequences[user][position]
            for other in np.delete(candidates, place):
                assert (user_ids[int(user)], item_ids[int(other)]) not in touched


def test_positions_and_starts(processed):
    sequences = read_sequences(processed)
    lengths = np.array([len(sequence) for sequence in sequences])
    for name, from_end in (("val", 2), ("test_popularity", 1), ("test_uniform", 1)):
        lists = read_lists(processed, name)
        assert lists.user.tolist() == list(range(len(sequences)))
        assert lists.position.tolist() == (lengths - from_end).tolist()
        assert lists.start.tolist() == np.maximum(0, lists.position - 4).tolist()
    train = read_lists(processed, "train")
    for user, length in enumerate(lengths):
        of_user = train.user == user
        positions = train.position[of_user]
        assert positions.tolist() == list(range(max(1, length - 5), length - 2))
        latest = length - 3  # shares its start with the one before it; the third from the end is a block's latest too
        assert train.start[of_user].tolist() == [max(0, (p if latest - p == 2 else latest) - 4) for p in positions]


def test_the_positive_stands_anywhere(processed):
    """Chi-squared against even places; 20.5 is the 0.1% point of 5 degrees of freedom, 13.8 of 2."""
    for names, limit in ((EVAL, 20.5), (("train",), 13.8)):
        lists = [read_lists(processed, name) for name in names]
        places = np.bincount(np.concatenate([x.positive for x in lists]), minlength=len(lists[0].candidates[0]))
        even = places.sum() / len(places)
        assert ((places - even) ** 2 / even).sum() < limit


def test_negatives_follow_popularity_or_not(raw_dir, tmp_path):
    counts = {}
    for power in (0, 1, 3):
        out = tmp_path / str(power)
        preprocess(raw_dir, out, DATA.model_copy(update={"negative_power": float(power)}), 0)
        for name in ("test_popularity", "test_uniform"):
            lists = read_lists(out, name)
            negatives = np.concatenate([np.delete(c, p) for c, p in zip(lists.candidates, lists.positive, strict=True)])
            counts[power, name] = table(out, "items")["count"].to_numpy()[negatives].mean()
    assert counts[3, "test_popularity"] > counts[1, "test_popularity"] > counts[0, "test_popularity"]
    assert counts[0, "test_uniform"] == counts[1, "test_uniform"] == counts[3, "test_uniform"]


def test_the_template_of_the_prompt_is_written(processed):
    assert read_template(processed) == DATA.prompt


def test_chosen_users_keep_the_lists_that_they_would_have_among_all(raw_dir, processed, tmp_path):
    """The draws are those of commit a6430cb, which chose when it scored."""
    few = DATA.model_copy(update={"uniform_users": 20, "zero_shot_users": 7})
    preprocess(raw_dir, tmp_path / "out", few, 3)
    preprocess(raw_dir, tmp_path / "all", DATA.model_copy(update={"uniform_users": None}), 3)
    everyone, kept = table(tmp_path / "all", "test_uniform"), table(tmp_path / "out", "test_uniform")
    chosen = np.sort(np.random.default_rng(3).permutation(len(everyone))[:20])
    assert kept["list"].to_list() == list(range(20))
    assert kept.drop("list").equals(everyone[chosen.tolist()].drop("list"))
    assert kept["candidates"].dtype == everyone["candidates"].dtype
    zero_shot = chosen[np.sort(np.random.default_rng(3).permutation(20)[:7])]
    users = table(tmp_path / "out", "users")
    assert users.filter("zero_shot")["user"].to_list() == everyone["user"][zero_shot.tolist()].to_list()
    for name in ("train", "val", "test_popularity", "items", "sequences"):
        assert table(tmp_path / "out", name).equals(table(tmp_path / "all", name), null_equal=True)


def test_chosen_users_of_a_fold_are_among_its_test_users(raw_dir, tmp_path):
    preprocess(raw_dir, tmp_path, DATA.model_copy(update={"fold": 2, "uniform_users": 5, "zero_shot_users": 2}), 0)
    users = table(tmp_path, "users")
    chosen = set(table(tmp_path, "test_uniform")["user"])
    zero_shot = set(users.filter("zero_shot")["user"])
    assert len(zero_shot) == 2 < len(chosen) == 5
    assert zero_shot < chosen < set(users.filter(fold=2)["user"])


def test_a_fold_holds_out_its_users(raw_dir, processed, tmp_path):
    folds = table(processed, "users")["fold"].to_numpy()
    tested = []
    for k in range(5):
        out = tmp_path / str(k)
        preprocess(raw_dir, out, DATA.model_copy(update={"fold": k}), 0)
        held_out = np.flatnonzero(folds == k)
        users, all_train, differ = table(out, "users"), table(processed, "users"), ("train_positives", "zero_shot")
        assert users.drop(differ).equals(all_train.drop(differ))
        expected = np.where(folds == k, 0, all_train["train_positives"])
        assert users["train_positives"].to_list() == expected.tolist()
        sequences = read_sequences(out)
        for name in EVAL:
            assert read_lists(out, name).user.tolist() == held_out.tolist()
        assert set(read_lists(out, "train").user) == set(np.flatnonzero(folds != k))
        train = np.concatenate([sequences[u][:-2] for u in np.flatnonzero(folds != k)])
        counts = table(out, "items")["count"]
        assert counts.to_list() == np.bincount(train, minlength=len(counts)).tolist()
        tested += held_out.tolist()
    assert sorted(tested) == list(range(len(folds)))


@pytest.fixture
def elsewhere(monkeypatch):
    """The machine's time zone is not UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


def test_global_time(raw_dir, tmp_path, elsewhere):
    data = DATA.model_copy(update={"split": "global_time", "test_from": "2017-07-24"})
    preprocess(raw_dir, tmp_path / "out", data, 0)
    times = table(tmp_path / "out", "sequences")["timestamps"].to_list()
    cut = 1_500_854_400  # 2017-07-24 in UTC
    lists = read_lists(tmp_path / "out", "test_popularity")
    assert 0 < len(lists) <= len(times)
    for user, position in zip(lists.user, lists.position, strict=True):
        assert times[user][position - 1] < cut <= times[user][position]
    for name in ("train", "val"):
        others = read_lists(tmp_path / "out", name)
        assert all(times[u][p] < cut for u, p in zip(others.user, others.position, strict=True))
    val = dict(zip(read_lists(tmp_path / "out", "val").user, read_lists(tmp_path / "out", "val").position, strict=True))
    assert all(val[u] == p - 1 for u, p in zip(lists.user, lists.position, strict=True) if p >= 2)
    with pytest.raises(UserError, match=r"leaves no test list.* from 2017-07-14 to 2017-08-02"):
        preprocess(raw_dir, tmp_path / "late", data.model_copy(update={"test_from": "2020-01-01"}), 0)


def test_blocks_as_long_as_the_history(raw_dir, tmp_path):
    preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"history_block": 4, "train_positives": None}), 0)
    train = read_lists(tmp_path / "out", "train")
    assert (train.position > train.start).all()
    sequences = read_sequences(tmp_path / "out")
    assert len(train) == sum(len(sequences[user]) - 3 for user in set(train.user))  # all but first, val and test


def test_the_same_seed_gives_the_same_files(raw_dir, processed, tmp_path):
    """In another process with another number of threads, too; another seed draws everything anew."""
    script = (
        "import sys; from pathlib import Path; from fisher_ld.preprocessing.preprocess import preprocess; "
        "from fisher_ld.config.params import DataSet; raw, out, data = sys.argv[1:]; "
        "preprocess(Path(raw), Path(out), DataSet.model_validate_json(data), 0)"
    )
    command = [sys.executable, "-c", script, str(raw_dir), str(tmp_path / "same"), DATA.model_dump_json()]
    root = str(Path(__file__).parents[2])
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "PYTHONHASHSEED": "7", "PYTHONPATH": root}
    subprocess.run(command, check=True, env=environment)
    for name in FILES:
        first, second = processed / f"{name}.parquet", tmp_path / "same" / f"{name}.parquet"
        assert table(processed, name).equals(table(tmp_path / "same", name), null_equal=True)
        assert first.read_bytes() == second.read_bytes(), name

    preprocess(raw_dir, tmp_path / "other", DATA, 1)
    one, other = table(processed, "users"), table(tmp_path / "other", "users")
    assert sorted(one["user_id"]) == sorted(other["user_id"])
    assert one["user_id"].to_list() != other["user_id"].to_list()
    folds = (dict(t.select("user_id", "fold").iter_rows()) for t in (one, other))
    assert next(folds) != next(folds)


def test_the_order_of_rows_matters_only_for_ties(raw_dir, processed, tmp_path):
    """Ids and samples do not depend on the file's order."""
    rows = pl.read_csv(raw_dir / "interactions.csv").sort("user_id", maintain_order=True)  # ties keep their order
    rows.write_csv(tmp_path / "interactions.csv")
    (tmp_path / "items.csv").write_bytes((raw_dir / "items.csv").read_bytes())
    preprocess(tmp_path, tmp_path / "out", DATA, 0)
    for name in FILES:
        assert table(processed, name).equals(table(tmp_path / "out", name), null_equal=True)


def written(folder, interactions, items=("x,X", "y,Y", "z,Z")):
    (folder / "interactions.csv").write_text("\n".join(["user_id,item_id,pos", *interactions]) + "\n")
    (folder / "items.csv").write_text("\n".join(["item_id,title", *items]) + "\n")
    return DataSource(**TABLE.model_dump(exclude={"columns"}), columns=Columns(**COLUMNS, order="pos"))


def test_a_source_without_timestamps(tmp_path):
    source = written(tmp_path, [f"{u},{i},{p}" for u in "ab" for p, i in enumerate("zxy" if u == "a" else "yxz")])
    data = data_set(source=source, user_core=1, item_core=1, train_negatives=1, eval_negatives=1)
    with pytest.raises(UserError, match=r"no train lists"):  # three positives: val, test, and one without a history
        preprocess(tmp_path, tmp_path / "out", data, 0)
    assert not (tmp_path / "out").exists()


def test_order_comes_from_the_order_column_and_timestamps_are_null(tmp_path):
    items = [f"i{k},Item {k}" for k in range(8)]
    source = written(tmp_path, [f"{u},i{k},{-k}" for u in "abc" for k in range(5)], items)
    extra = [f"d,i{k},{-k}" for k in range(8)]
    with open(tmp_path / "interactions.csv", "a") as file:
        file.write("\n".join(extra) + "\n")
    data = data_set(source=source, user_core=1, item_core=1, train_negatives=1, eval_negatives=1, max_users=None)
    with pytest.raises(UserError, match=r"user d has 0, of \d items"):
        preprocess(tmp_path, tmp_path / "out", data, 0)
    written(tmp_path, [f"{u},i{k},{-k}" for u, first in (("a", 0), ("b", 3)) for k in range(first, first + 5)], items)
    preprocess(tmp_path, tmp_path / "out", data, 0)
    names = table(tmp_path / "out", "items")["item_id"]
    by_user = dict(zip(table(tmp_path / "out", "users")["user_id"], read_sequences(tmp_path / "out"), strict=True))
    assert [names[int(i)] for i in by_user["a"]] == ["i4", "i3", "i2", "i1", "i0"]
    assert table(tmp_path / "out", "sequences")["timestamps"].to_list() == [None, None]


def test_too_many_unreadable_rows(tmp_path):
    good = [f"{u},i{k},{k}" for u, first in (("a", 0), ("b", 3)) for k in range(first, first + 5)]
    items = [f"i{k},Item {k}" for k in range(8)]
    source = written(tmp_path, [*good, "a,,1", "b", ",i1,1", ",i2,1"], items)
    data = data_set(source=source, user_core=1, item_core=1, train_negatives=1, eval_negatives=1, max_rejected=0.28)
    aside = tmp_path / "out.rejected.parquet"
    with pytest.raises(UserError, match=r"4 of 14 rows cannot be used, allowed are 28.00%") as error:
        preprocess(tmp_path, tmp_path / "out", data, 0)
    assert "missing user id: 2 (first in row 14)" in str(error.value)
    assert "wrong number of fields: 1 (first in row 13)" in str(error.value)
    assert str(aside) in str(error.value)
    assert len(pl.read_parquet(aside)) == 4
    assert not (tmp_path / "out").exists()
    report = preprocess(tmp_path, tmp_path / "out", data.model_copy(update={"max_rejected": 0.3}), 0)
    assert not aside.exists()
    assert len(table(tmp_path / "out", "rejected")) == report["rejected"]["rows"] == 4


def test_a_failure_leaves_the_old_output_alone(processed, raw_dir, tmp_path):
    preprocess(raw_dir, tmp_path / "out", DATA, 0)
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    with pytest.raises(UserError, match=r"no users are left"):
        preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"user_core": 1000}), 0)
    with pytest.raises(UserError, match=r"eval_negatives: val lists need 39 items"):
        preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"eval_negatives": 39}), 0)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("everything", [True, False])
def test_items_without_a_text_are_dropped(tmp_path, everything):
    items = ["i0,Item 0", 'i1," "', *(f"i{k},Item {k}" for k in range(2, 8))] if not everything else ["i0,"]
    good = [f"{u},i{k},{k}" for u, first in (("a", 0), ("b", 3)) for k in range(first, first + 5)]
    source = written(tmp_path, good, items)
    data = data_set(source, user_core=1, item_core=1, train_negatives=1, eval_negatives=1)
    if everything:
        with pytest.raises(UserError, match="has a title"):
            preprocess(tmp_path, tmp_path / "out", data, 0)
        return
    report = preprocess(tmp_path, tmp_path / "out", data, 0)
    assert "i1" not in table(tmp_path / "out", "items")["item_id"]
    assert [step["interactions"] for step in report["filters"][:2]] == [10, 9]


TABLE = DataSource(
    kind="table",
    interactions="interactions.csv",
    items="items.jsonl",
    columns=Columns(**COLUMNS, rating="rating", timestamp="timestamp"),
)
GIFT_CARDS = {"Gift_Cards_5.json.gz": "reviews.jsonl.gz", "meta_Gift_Cards.json.gz": "meta.jsonl.gz"}


@pytest.mark.realdata
@pytest.mark.parametrize(
    ("name", "source", "files", "expected"),
    [
        ("movielens-latest-small", DataSource(kind="movielens-latest-small"), {}, (671, 9066, 100_004)),
        ("amazon-office-2018", TABLE, {}, (3231, 3317, 21_290)),
        (
            "amazon-giftcards-2018-raw",
            DataSource(kind="amazon-2018", category="Gift_Cards"),
            GIFT_CARDS,
            (458, 148, 2972),
        ),
    ],
)
def test_real_tables_if_at_hand(tmp_path, name, source, files, expected):
    folder = Path(os.environ.get("FISHER_LD_REALDATA", "")) / name
    if not os.environ.get("FISHER_LD_REALDATA") or not folder.is_dir():
        pytest.skip(f"set FISHER_LD_REALDATA to a folder that holds {name}")
    raw = tmp_path / "raw"
    raw.mkdir()
    for file in folder.iterdir():
        (raw / files.get(file.name, file.name)).symlink_to(file)
    data = data_set(source=source, item_core=3, item_text="{title}", eval_negatives=9)
    report = preprocess(raw, tmp_path / "out", data, 0)
    assert report["filters"][0] == {
        "step": "read",
        **dict(zip(("users", "items", "interactions"), expected, strict=True)),
    }
    assert report["rejected"]["rows"] == 0


@pytest.mark.parametrize("read", [lambda folder: read_lists(folder, "train"), read_sequences])
def test_what_is_not_preprocessed_yet_names_the_stage(read, tmp_path):
    with pytest.raises(UserError, match=r"parquet: no such file; run the stage preprocess"):
        read(tmp_path)
