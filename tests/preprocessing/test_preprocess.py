import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import list_file, read_lists, read_sequences
from fisher_ld.batches.prompts import read_template
from fisher_ld.config.params import Columns, DataSource
from fisher_ld.config.paths import for_tests
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.preprocessing.preprocess import preprocess
from tests.given import given
from tests.teachers import byte_level

COLUMNS = {"user": "user_id", "item": "item_id", "title": "title"}
TABLE = DataSource(
    kind="table",
    interactions="anywhere",
    items="anywhere",
    columns=Columns(**COLUMNS, rating="rating", timestamp="time", categories="kinds"),
)
EVAL = ("val", "test_matched", "test_popularity", "test_uniform")
LISTS = ("labelled", "transfer", *EVAL)
FILES = ("items", "users", "sequences", "rejected", *LISTS)


def data_set(source=TABLE, **changes):
    return given({"data_sets": {"mine": {"source": source.model_dump(), **changes}}}).data_sets["mine"]


DATA = data_set(
    history_length=4,
    history_block=3,
    labelled_windows=20,
    transfer_windows=30,
    train_negatives=2,
    transfer_negatives=4,
    eval_negatives=5,
    families=["matched", "uniform", "popularity"],
)


def write_raw(folder, n_items=40):
    """60 users with 5 to 30 interactions out of `n_items`, popular ones more often, a quarter of them not positive."""
    rng = np.random.default_rng(0)
    chances = 1 / np.arange(2, n_items + 2)
    rows = []
    for user in range(60):
        items = rng.choice(n_items, rng.integers(5, 31), replace=False, p=chances / chances.sum())
        times = 1_499_990_400 + rng.integers(0, 20, len(items)) * 86_400  # midnights in UTC, with ties
        ratings = np.where(rng.random(len(items)) < 0.25, 2, 5)
        rows += [(f"user{user}", f"item{i}", r, t) for i, r, t in zip(items, ratings, times, strict=True)]
    table = pl.DataFrame(rows, schema=["user_id", "item_id", "rating", "time"], orient="row")
    table.sample(fraction=1, shuffle=True, seed=1).write_csv(folder / "interactions.csv")
    items = {"item_id": [f"item{i}" for i in range(n_items)], "title": [f"Title {i}" for i in range(n_items)]}
    pl.DataFrame(items | {"kinds": ["a|b" if i % 2 else "c" for i in range(n_items)]}).write_csv(folder / "items.csv")
    return folder


@pytest.fixture(scope="module")
def raw_dir(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"))


@pytest.fixture(scope="module")
def processed(raw_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "processed"
    preprocess(raw_dir, out, DATA, 0)
    return out


@pytest.fixture(scope="module")
def all_labelled(raw_dir, tmp_path_factory):
    out = tmp_path_factory.mktemp("out") / "processed"
    preprocess(raw_dir, out, DATA.model_copy(update={"labelled_windows": None}), 0)
    return out


def table(folder, name):
    return pl.read_parquet(list_file(folder, name))


def users_of_tests(folder):
    """The users that have test lists."""
    return pl.read_parquet(for_tests(folder) / "users.parquet")


def test_columns_and_types(processed):
    lists = {
        "list": pl.Int32,
        "user": pl.Int32,
        "start": pl.Int32,
        "position": pl.Int32,
        "candidates": pl.List(pl.Int32),
        "positive": pl.Int32,
    }
    expected = {name: lists for name in LISTS} | {
        "items": {
            "item": pl.Int32,
            "item_id": pl.String,
            "title": pl.String,
            "categories": pl.List(pl.Enum(["a", "b", "c"])),
            "text": pl.String,
            "count": pl.Int32,
            "total": pl.Int32,
            "cold": pl.Boolean,
        },
        "users": {
            "user": pl.Int32,
            "user_id": pl.String,
            "length": pl.Int32,
            "train_positives": pl.Int32,
            "fold": pl.Int8,
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
    assert {p.name for p in processed.iterdir()} == {
        "prompt.json",
        "history.json",
        "without_text.parquet",
        *(f"{name}.parquet" for name in FILES if not name.startswith("test_")),
    }
    users = {"user": pl.Int32, "zero_shot": pl.Boolean, "touched": pl.List(pl.Int32)}
    assert dict(users_of_tests(processed).schema) == users
    assert {p.stem for p in for_tests(processed).iterdir()} == {"users", *EVAL} - {"val"}


def test_the_longest_history_is_said(processed):
    assert read_json(processed / "history.json") == {"length": 4}


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


def test_items_have_text_categories_and_counts(processed):
    items, sequences = table(processed, "items"), read_sequences(processed)
    train = np.concatenate([sequence[:-2] for sequence in sequences])
    assert items["count"].to_list() == np.bincount(train, minlength=len(items)).tolist()
    assert items["total"].to_list() == np.bincount(np.concatenate(sequences)).tolist()
    assert not items["cold"].any()
    for name, title, text, kinds in items.select("item_id", "title", "text", "categories").iter_rows():
        number = int(name.removeprefix("item"))
        assert text == title == f"Title {number}"
        assert kinds == (["a", "b"] if number % 2 else ["c"])


def test_evaluated_lists_hold_the_positive_and_untouched_negatives(raw_dir, processed):
    raw, sequences = pl.read_csv(raw_dir / "interactions.csv"), read_sequences(processed)
    user_ids, item_ids = table(processed, "users")["user_id"], table(processed, "items")["item_id"]
    touched = set(raw.select("user_id", "item_id").iter_rows())
    for name in EVAL:
        lists = read_lists(processed, name)
        for user, position, place, candidates in zip(
            lists.user, lists.position, lists.positive, lists.candidates, strict=True
        ):
            assert len(set(candidates)) == len(candidates) == 6
            assert candidates[place] == sequences[user][position]
            for other in np.delete(candidates, place):
                assert (user_ids[int(user)], item_ids[int(other)]) not in touched


def touched_before(raw_dir, folder):
    """For each user, item -> how many positives of the sequence came before the first touch, liked or not."""
    raw = pl.read_csv(raw_dir / "interactions.csv").with_row_index("row").sort("user_id", "time", "row")
    users, items = table(folder, "users"), table(folder, "items")
    user_of, item_of = (dict(zip(t[f"{n}_id"], t[n], strict=True)) for t, n in ((users, "user"), (items, "item")))
    sequences, found = read_sequences(folder), [{} for _ in range(len(users))]
    before = [0] * len(users)
    for name, item_id in raw.select("user_id", "item_id").iter_rows():
        if name not in user_of or item_id not in item_of:
            continue
        user, item = user_of[name], item_of[item_id]
        found[user].setdefault(item, before[user])
        before[user] += int(before[user] < len(sequences[user]) and sequences[user][before[user]] == item)
    assert before == [len(sequence) for sequence in sequences]
    return found


def check_learned(raw_dir, folder, pool=None):
    """No negative of a training or transfer window was touched before its last position; returns how many came later,
    and were liked later."""
    since, sequences = touched_before(raw_dir, folder), read_sequences(folder)
    later = liked = 0
    for name in ("labelled", "transfer"):
        lists = read_lists(folder, name)
        for window in lists.windows():
            last = lists.position[window].max()
            for number in window:
                user, position = lists.user[number], lists.position[number]
                candidates = lists.candidates[number].tolist()
                true = int(sequences[user][position])
                assert len(set(candidates)) == len(candidates) == (3 if name == "labelled" else 5)
                assert candidates.count(true) == 1
                assert lists.positive[number] == (candidates.index(true) if name == "labelled" else -1)
                for other in set(candidates) - {true}:
                    assert since[user].get(other, np.inf) > last
                    later += other in since[user]
                    liked += other in sequences[user]
                assert pool is None or set(candidates) <= pool
    return later, liked


def test_learned_lists_do_not_tell_what_comes_later(raw_dir, processed, all_labelled):
    check_learned(raw_dir, processed)
    later, liked = check_learned(raw_dir, all_labelled)
    assert later > liked > 20  # among some thousands


def test_the_window_s_own_positives_are_no_negatives_and_validation_and_test_items_may_be(all_labelled):
    sequences, train = read_sequences(all_labelled), read_lists(all_labelled, "labelled")
    evaluated = 0
    for window in train.windows():
        user = train.user[window[0]]
        own = set(sequences[user][train.position[window]])
        for number in window:
            others = set(np.delete(train.candidates[number], train.positive[number]))
            assert not others & own
            evaluated += len(others & set(sequences[user][-2:]))
    assert evaluated > 5


def test_positions_and_starts(processed, all_labelled):
    sequences = read_sequences(processed)
    lengths = np.array([len(sequence) for sequence in sequences])
    for name, from_end in (("val", 2), ("test_matched", 1), ("test_popularity", 1), ("test_uniform", 1)):
        lists = read_lists(processed, name)
        assert lists.user.tolist() == list(range(len(sequences)))
        assert lists.position.tolist() == (lengths - from_end).tolist()
        assert lists.start.tolist() == np.maximum(0, lists.position - 4).tolist()
    train = read_lists(all_labelled, "labelled")
    for user, length in enumerate(lengths):
        of_user = train.user == user
        positions = train.position[of_user]
        assert positions.tolist() == list(range(1, length - 2))
        last = [length - 3 - (length - 3 - p) // 3 * 3 for p in positions]  # of the block of three
        assert train.start[of_user].tolist() == [max(0, p - 5) for p in last]  # 3, 4 and 5 likes: 4 in the mean


def test_labelled_and_transfer_windows_are_disjoint_whole_and_as_many_as_asked(
    raw_dir, processed, all_labelled, tmp_path
):
    every, window, places = table(all_labelled, "labelled"), ("user", "start"), ["user", "start", "position"]
    labelled, transfer = table(processed, "labelled"), table(processed, "transfer")
    asked, others = (set(part.select(window).iter_rows()) for part in (labelled, transfer))
    assert (len(asked), len(others), len(asked & others)) == (20, 30, 0)
    for part in (labelled, transfer):
        expected = every.join(part, on=window, how="semi").sort("list")
        assert part.select(places).equals(expected.select(places))
    assert len(table(all_labelled, "transfer")) == 0
    assert table(all_labelled, "transfer").schema == transfer.schema

    preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"transfer_windows": None}), 0)
    assert table(tmp_path / "out", "labelled").equals(labelled)
    assert len(table(tmp_path / "out", "transfer")) == len(every) - len(labelled)


def test_transfer_candidates_do_not_show_the_true_item_by_their_order(raw_dir, tmp_path):
    preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"transfer_windows": None}), 0)
    lists = read_lists(tmp_path / "out", "transfer")
    places = [
        list(candidates).index(lists.sequences[user][position])
        for user, position, candidates in zip(lists.user, lists.position, lists.candidates, strict=True)
    ]
    assert chi_squared(np.bincount(places, minlength=5)) < 18.5  # the 0.1% point of 4 degrees of freedom
    assert np.isnan(lists.labels()).all()


def chi_squared(places):
    even = places.sum() / len(places)
    return ((places - even) ** 2 / even).sum()


def test_the_positive_stands_anywhere(processed, all_labelled):
    """Against even places; 20.5 is the 0.1% point of 5 degrees of freedom, 13.8 of 2."""
    for folder, names, limit in ((processed, EVAL, 20.5), (all_labelled, ("labelled",), 13.8)):
        lists = [read_lists(folder, name) for name in names]
        places = np.bincount(np.concatenate([x.positive for x in lists]), minlength=len(lists[0].candidates[0]))
        assert chi_squared(places) < limit


def test_each_family_draws_by_its_own_popularity(processed):
    """Mean training positives of the negatives, against the positive's."""
    count = table(processed, "items")["count"].to_numpy()
    negatives, positives = {}, {}
    for name in ("test_matched", "test_popularity", "test_uniform"):
        lists = read_lists(processed, name)
        pairs = list(zip(lists.candidates, lists.positive, strict=True))
        negatives[name] = count[np.concatenate([np.delete(c, p) for c, p in pairs])].mean()
        positives[name] = count[[c[p] for c, p in pairs]].mean()
    assert negatives["test_popularity"] > 1.2 * negatives["test_uniform"]
    matched = abs(negatives["test_matched"] - positives["test_matched"])
    assert matched < 0.5 * min(abs(negatives[name] - positives[name]) for name in ("test_popularity", "test_uniform"))


@pytest.mark.parametrize("families", [["matched"], ["matched", "full", "two-stage"]])
def test_only_the_families_that_are_asked_for_are_written(raw_dir, processed, tmp_path, families):
    report = preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"families": families}), 0)
    written = {path.stem for path in for_tests(tmp_path / "out").glob("test_*.parquet")}
    assert written == {f"test_{family}" for family in families if family != "two-stage"}
    assert set(report["lists"]) == written | {"train", "labelled", "transfer", "val"}
    assert table(tmp_path / "out", "test_matched").equals(table(processed, "test_matched"))


def test_full_lists_hold_the_positive_and_all_that_the_user_never_touched(raw_dir, tmp_path):
    data = DATA.model_copy(update={"families": ["matched", "full"], "test_users": 20})
    preprocess(raw_dir, tmp_path / "out", data, 0)
    lists, matched = read_lists(tmp_path / "out", "test_full"), read_lists(tmp_path / "out", "test_matched")
    for column in ("user", "start", "position"):
        assert (getattr(lists, column) == getattr(matched, column)).all()
    since, n_items = touched_before(raw_dir, tmp_path / "out"), len(table(tmp_path / "out", "items"))
    for user, position, place, candidates in zip(
        lists.user, lists.position, lists.positive, lists.candidates, strict=True
    ):
        true = lists.sequences[user][position]
        assert candidates[place] == true
        assert sorted(candidates) == sorted({*range(n_items)} - set(since[user]) | {int(true)})
    assert len(set(lists.positive)) > 5


def test_ties_in_time_are_counted(tmp_path):
    rows = [(f"u{u}", f"i{(u + k) % 12}", min(k, 5 if u < 3 else 9)) for u in range(12) for k in range(7)]
    pl.DataFrame(rows, schema=["user_id", "item_id", "time"], orient="row").with_columns(
        pl.col("time") + 1_000_000_000
    ).write_csv(tmp_path / "interactions.csv")
    items = {"item_id": [f"i{k}" for k in range(12)], "title": [f"Item {k}" for k in range(12)]}
    pl.DataFrame(items).write_csv(tmp_path / "items.csv")
    columns = Columns(**COLUMNS, timestamp="time")
    source = DataSource(kind="table", interactions="anywhere", items="anywhere", columns=columns)
    data = data_set(source, train_negatives=2, transfer_negatives=2, eval_negatives=2)
    assert preprocess(tmp_path, tmp_path / "out", data, 0)["val_and_test_share_a_time"] == 0.25  # 3 of 12
    by_order = data_set(source.model_copy(update={"columns": Columns(**COLUMNS, order="time")}))
    by_order = by_order.model_copy(update={"train_negatives": 2, "transfer_negatives": 2, "eval_negatives": 2})
    assert preprocess(tmp_path, tmp_path / "out", by_order, 0)["val_and_test_share_a_time"] is None


def test_the_template_of_the_prompt_is_written(processed):
    assert read_template(processed) == DATA.prompt


def test_all_families_are_of_the_chosen_users(raw_dir, processed, tmp_path):
    preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"test_users": 20, "zero_shot_users": 7}), 3)
    users = users_of_tests(tmp_path / "out")
    everyone = np.arange(len(table(tmp_path / "out", "users")))
    chosen = np.sort(np.random.default_rng(3).permutation(everyone)[:20]).tolist()
    assert users["user"].to_list() == chosen
    for name in ("test_matched", "test_popularity", "test_uniform"):
        assert table(tmp_path / "out", name)["user"].to_list() == chosen
    assert len(table(tmp_path / "out", "val")) == len(everyone)
    assert users["zero_shot"].sum() == 7
    assert len(users_of_tests(processed)) == len(everyone)  # of 500 there are not as many


def test_other_test_users_and_families_leave_what_is_learned_alone(raw_dir, processed, tmp_path):
    other = DATA.model_copy(update={"test_users": 20, "zero_shot_users": 7, "families": ["matched", "full"]})
    preprocess(raw_dir, tmp_path / "out", other, 0)
    first, second = ({p.name: p.read_bytes() for p in folder.iterdir()} for folder in (processed, tmp_path / "out"))
    assert first == second


def test_validation_lists_are_of_a_seeded_few_users_where_asked(raw_dir, tmp_path):
    for name, few in (("all", None), ("few", 9)):
        preprocess(raw_dir, tmp_path / name, DATA.model_copy(update={"val_users": few}), 3)
    few, every = (pl.read_parquet(tmp_path / name / "val.parquet")["user"].to_list() for name in ("few", "all"))
    assert len(few) == 9 and set(few) < set(every)


def test_chosen_users_of_a_fold_are_among_its_test_users(raw_dir, tmp_path):
    preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"fold": 2, "test_users": 5, "zero_shot_users": 2}), 0)
    users = users_of_tests(tmp_path / "out")
    chosen = set(users["user"])
    assert users["zero_shot"].sum() == 2 < len(chosen) == 5
    assert chosen < set(table(tmp_path / "out", "users").filter(fold=2)["user"])
    assert set(table(tmp_path / "out", "test_uniform")["user"]) == chosen


COLD = DATA.model_copy(update={"split": "cold_items", "families": ["matched", "uniform", "full"], "item_core": 2})


@pytest.fixture(scope="module")
def many_items(tmp_path_factory):
    return write_raw(tmp_path_factory.mktemp("raw"), 150)


@pytest.fixture(scope="module")
def cold(many_items, tmp_path_factory):
    out = tmp_path_factory.mktemp("cold") / "processed"
    preprocess(many_items, out, COLD, 0)
    return out


def test_cold_items_occur_in_no_training_list(many_items, cold):
    items, train, transfer = table(cold, "items"), read_lists(cold, "labelled"), read_lists(cold, "transfer")
    warm = set(items.filter(~pl.col("cold"))["item"])
    assert items["cold"].sum() == len(items) // 5
    check_learned(many_items, cold, pool=warm)
    for lists in (train, transfer, *(read_lists(cold, name) for name in ("val", "test_matched"))):
        assert all(set(lists.history(number)) <= warm for number in range(len(lists)))
    assert items.filter("cold")["count"].sum() == 0 < items.filter("cold")["total"].min()
    assert {int(i) for sequence in read_sequences(cold) for i in sequence} <= warm


def test_validation_and_test_lists_have_a_half_of_the_cold_items_each(cold):
    items = table(cold, "items")
    occur = {
        part: {int(i) for name in names for c in read_lists(cold, name).candidates for i in c}
        for part, names in (("val", ["val"]), ("test", ["test_matched", "test_uniform", "test_full"]))
    }
    halves = items["cold"].sum() // 2
    assert not occur["val"] & occur["test"]
    assert occur["val"] | occur["test"] <= set(items.filter("cold")["item"])
    assert halves - 1 <= len(occur["val"]) <= len(occur["test"]) <= halves + 1


def test_cold_positives_are_a_user_s_last_and_training_ends_before_the_first(many_items, tmp_path):
    """Against the raw table, user by user."""
    cold = tmp_path / "cold"
    preprocess(many_items, cold, COLD.model_copy(update={"labelled_windows": None}), 0)
    raw = pl.read_csv(many_items / "interactions.csv").with_row_index("row").filter(pl.col("rating") >= 4)
    items, users = table(cold, "items"), table(cold, "users")
    number, is_cold = dict(zip(items["item_id"], items["item"], strict=True)), items["cold"].to_list()
    part = {name: read_lists(cold, name) for name in ("val", "test_matched", "labelled")}
    role = {int(i): name for name in ("val", "test_matched") for c in part[name].candidates for i in c}
    evaluated = 0
    for user, name in users.select("user", "user_id").iter_rows():
        own = [number[i] for i in raw.filter(user_id=name).sort("time", "row")["item_id"] if i in number]
        ends = [len(own)]
        for kind in ("val", "test_matched"):
            lists = part[kind]
            expected = [k for k, i in enumerate(own) if role.get(i) == kind and not all(is_cold[j] for j in own[:k])]
            found = np.flatnonzero(lists.user == user)
            assert len(found) == bool(expected)
            if not expected:
                continue
            evaluated += 1
            ends.append(expected[-1])
            (at,) = found
            assert lists.candidates[at][lists.positive[at]] == own[expected[-1]]
            warm_before = [i for i in own[: expected[-1]] if not is_cold[i]]
            assert lists.history(at).tolist() == warm_before[-4:]
        warm = [i for i in own[: min(ends)] if not is_cold[i]]
        assert users["train_positives"][user] == len(warm)
        positions = part["labelled"].position[part["labelled"].user == user]
        assert positions.tolist() == list(range(1, len(warm)))
    assert evaluated > 50


def test_users_of_cold_items_alone_have_an_empty_sequence(tmp_path):
    rows = [f"u{u},i{(u + k) % 30},{k}" for u in range(60) for k in range(8)]
    rows += [f"one{k},i{k},0" for k in range(30)]  # a fifth of whom like a cold item and nothing else
    source = written(tmp_path, rows, [f"i{k},Item {k}" for k in range(30)])
    data = data_set(source, split="cold_items", user_core=1, train_negatives=1, eval_negatives=1, families=["matched"])
    preprocess(tmp_path, tmp_path / "out", data, 0)
    users, sequences = table(tmp_path / "out", "users"), read_sequences(tmp_path / "out")
    empty = [user for user, sequence in enumerate(sequences) if not len(sequence)]
    assert len(sequences) == len(users) == 90
    assert len(empty) == 6 and users["user_id"][empty].str.starts_with("one").all()
    assert set(users["train_positives"][empty]) == {0}
    assert not set(empty) & {
        *read_lists(tmp_path / "out", "val").user,
        *read_lists(tmp_path / "out", "test_matched").user,
    }


def test_popularity_drawn_negatives_are_refused_where_test_items_are_cold():
    with pytest.raises(UserError, match=r"families: popularity draws negatives by their training positives, and cold"):
        data_set(split="cold_items", families=["matched", "popularity"])


def test_a_fold_holds_out_its_users(raw_dir, processed, tmp_path):
    folds = table(processed, "users")["fold"].to_numpy()
    tested = []
    for k in range(5):
        out = tmp_path / str(k)
        preprocess(raw_dir, out, DATA.model_copy(update={"fold": k, "labelled_windows": None}), 0)
        held_out = np.flatnonzero(folds == k)
        users, all_train = table(out, "users"), table(processed, "users")
        assert users.drop("train_positives").equals(all_train.drop("train_positives"))
        expected = np.where(folds == k, 0, all_train["train_positives"])
        assert users["train_positives"].to_list() == expected.tolist()
        sequences = read_sequences(out)
        for name in EVAL:
            assert read_lists(out, name).user.tolist() == held_out.tolist()
        assert set(read_lists(out, "labelled").user) == set(np.flatnonzero(folds != k))
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
    lists = read_lists(tmp_path / "out", "test_matched")
    assert 0 < len(lists) <= len(times)
    for user, position in zip(lists.user, lists.position, strict=True):
        assert times[user][position - 1] < cut <= times[user][position]
    for name in ("labelled", "val"):
        others = read_lists(tmp_path / "out", name)
        assert all(times[u][p] < cut for u, p in zip(others.user, others.position, strict=True))
    val = dict(zip(read_lists(tmp_path / "out", "val").user, read_lists(tmp_path / "out", "val").position, strict=True))
    assert all(val[u] == p - 1 for u, p in zip(lists.user, lists.position, strict=True) if p >= 2)
    with pytest.raises(UserError, match=r"leaves no test list.* from 2017-07-14 to 2017-08-02"):
        preprocess(raw_dir, tmp_path / "late", data.model_copy(update={"test_from": "2020-01-01"}), 0)


def test_blocks_as_long_as_the_history(raw_dir, tmp_path):
    preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"history_block": 4, "labelled_windows": None}), 0)
    train = read_lists(tmp_path / "out", "labelled")
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
        first, second = (list_file(folder, name) for folder in (processed, tmp_path / "same"))
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
    with pytest.raises(UserError, match=r"no labelled lists"):  # three positives: val, test, and one without a history
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
    before = {p: p.read_bytes() for p in tmp_path.glob("*/*")}
    with pytest.raises(UserError, match=r"no users are left"):
        preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"user_core": 1000}), 0)
    with pytest.raises(UserError, match=r"eval_negatives: val lists need 39 items"):
        preprocess(raw_dir, tmp_path / "out", DATA.model_copy(update={"eval_negatives": 39}), 0)
    assert {p: p.read_bytes() for p in tmp_path.glob("*/*")} == before
    assert sorted(tmp_path.iterdir()) == [tmp_path / "out", for_tests(tmp_path / "out")]


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


SHOP = DataSource(
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
        ("amazon-office-2018", SHOP, {}, (3231, 3317, 21_290)),
        (
            "amazon-giftcards-2018-raw",
            DataSource(kind="amazon-2018", category="Gift_Cards"),
            GIFT_CARDS,
            (458, 148, 2972),
        ),
    ],
)
def test_real_tables_if_at_hand(tmp_path, name, source, files, expected):
    folder = Path(os.environ.get("FISHER_LD_DATA", "")) / name
    if not os.environ.get("FISHER_LD_DATA") or not folder.is_dir():
        pytest.skip(f"set FISHER_LD_DATA to a folder that holds {name}")
    raw = tmp_path / "raw"
    raw.mkdir()
    for file in folder.iterdir():
        (raw / files.get(file.name, file.name)).symlink_to(file)
    data = data_set(source=source, item_core=3, item_text="{title}", eval_negatives=9)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    report = preprocess(raw, tmp_path / "out", data, 0, tmp_path / "tokenizer.json")
    assert report["filters"][0] == {
        "step": "read",
        **dict(zip(("users", "items", "interactions"), expected, strict=True)),
    }
    assert report["rejected"]["rows"] == 0


@pytest.mark.parametrize("read", [lambda folder: read_lists(folder, "labelled"), read_sequences])
def test_what_is_not_preprocessed_yet_names_the_stage(read, tmp_path):
    with pytest.raises(UserError, match=r"parquet: no such file; run the stage preprocess"):
        read(tmp_path)


def items_with(tmp_path, **columns):
    raw = write_raw(tmp_path)
    items = pl.read_csv(raw / "items.csv").rename({"item_id": "asin"}).with_columns(**columns)
    items.write_csv(raw / "items.csv")
    likes = pl.read_csv(raw / "interactions.csv").rename({"item_id": "asin"})
    likes.write_csv(raw / "interactions.csv")
    assert TABLE.columns is not None
    return raw, TABLE.model_copy(update={"columns": TABLE.columns.model_copy(update={"item": "asin"})})


def test_a_column_may_have_a_name_that_our_tables_have_too(tmp_path):
    raw, source = items_with(tmp_path, item_id=pl.lit("own"), count=pl.lit("many"))
    preprocess(raw, tmp_path / "out", data_set(source, item_text="{title} {item_id} {count}", eval_negatives=5), 0)
    found = table(tmp_path / "out", "items")
    assert set(found["text"].str.split(" ").list.slice(2).list.join(" ")) == {"own many"}
    assert found["item_id"][0].startswith("item") and found["count"].dtype == pl.Int32


def test_the_id_is_no_text_and_a_field_that_no_item_has_is_warned_of(tmp_path, capsys):
    raw, source = items_with(tmp_path, item=pl.lit("x"), brand=pl.lit(None))
    with pytest.raises(UserError, match=r"item_text names \{item\}, which is the id"):
        preprocess(raw, tmp_path / "out", data_set(source, item_text="{title} {item}"), 0)
    preprocess(raw, tmp_path / "out", data_set(source, item_text="{title} by {brand}", eval_negatives=5), 0)
    assert "warning: no item has a value of {brand}, which item_text names" in capsys.readouterr().err


def test_data_without_one_test_list_are_refused(tmp_path):
    raw = write_raw(tmp_path)
    pl.read_csv(raw / "interactions.csv")[:1].with_columns(rating=5).write_csv(raw / "interactions.csv")
    with pytest.raises(UserError, match=r"no user has a test list, .* 1 users with 1 positives of 1 items"):
        preprocess(raw, tmp_path / "out", data_set(user_core=1, item_core=1), 0)
