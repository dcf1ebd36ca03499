"""The stages rivals and score_rivals, and the catalogue that they read."""

import subprocess
import sys

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import save_file

from fisher_ld.batches.lists import list_file, read_lists, read_tests
from fisher_ld.config.paths import DataPaths, cell, rival
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.baselines.catalogue import RIVALS, fit_chosen, rivals_of
from fisher_ld.evaluation.baselines.mean_states import DEPTHS
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.preprocessing import splits
from stages import rivals, score_rivals
from tests.given import ROOT, given

DATA = DataPaths("movielens-100k")
USERS, ITEMS = 30, 150
PARAMS = {"rivals": {"trials": 3}, "data_sets": {DATA.name: {"families": ["matched", "two-stage"]}}}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Users like neighbours on a circle of items; half of the windows are labelled."""
    monkeypatch.chdir(tmp_path)
    for folder in (DATA.processed, DATA.processed_test):
        folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    sequences = [(rng.integers(ITEMS) + np.arange(12)) % ITEMS for _ in range(USERS)]

    def write(name, users, position, size, **more):
        rows = {"list": range(len(users)), "user": users, "start": 0, "position": position}
        true = [int(sequences[user][place]) for user, place in zip(users, position, strict=True)]
        others = [rng.choice(np.setdiff1d(np.arange(ITEMS), sequences[user]), size) for user in users]
        candidates = [[item, *some] for item, some in zip(true, others, strict=True)]
        table = pl.DataFrame(rows | more | {"candidates": candidates, "positive": 0})
        table.write_parquet(list_file(DATA.processed, name))

    everyone = list(range(USERS))
    write("labelled", everyone[::2], [8] * (USERS // 2), 4)
    write("val", everyone, [10] * USERS, 9)
    write("test_matched", everyone, [11] * USERS, 9)
    texts = [f"row{item // 10} seat{item % 10}" for item in range(ITEMS)]
    items = {"item": range(ITEMS), "text": texts, "cold": [False] * ITEMS}
    pl.DataFrame(items).write_parquet(DATA.processed / "items.parquet")
    pl.DataFrame({"user": everyone, "train_positives": 10}).write_parquet(DATA.processed / "users.parquet")
    tested = {"user": everyone, "touched": sequences}
    pl.DataFrame(tested).write_parquet(DATA.processed_test / "users.parquet")
    liked = {"user": everyone, "items": [items.tolist() for items in sequences]}
    pl.DataFrame(liked).write_parquet(DATA.processed / "sequences.parquet")
    save_file({name: rng.normal(size=(ITEMS, 4)).astype(np.float16) for name in DEPTHS}, DATA.item_states)


def test_rivals_are_tuned_on_validation_lists_and_score_every_list(project, run):
    rivals.main(given(PARAMS), run, DATA.name)
    tuning = read_json(cell("rivals", DATA.name) / "tuning.json")
    assert list(tuning) == list(rivals_of(given().rivals))
    validation = read_lists(DATA.processed, "val")
    for name, record in tuning.items():
        assert 1 <= len(record["tried"]) <= 3
        assert record["ndcg_10"] == max(trial["ndcg_10"] for trial in record["tried"])
        read_scores(DATA.validation(rival(name)), validation)
    assert tuning["follow-counts-all"]["ndcg_10"] > tuning["follow-counts"]["ndcg_10"]  # half the circle is not known
    score_rivals.main(given(PARAMS), run, DATA.name)
    tests = read_tests(DATA)
    assert list(tests) == ["matched", "two-stage"]
    for name in tuning:
        for family, lists in tests.items():
            scores = read_scores(DATA.test(rival(name)) / f"{family}.parquet", lists)
            again = fit_chosen(DATA, name).score(lists)
            np.testing.assert_array_equal(scores.values[3], np.asarray(again[3], np.float32))


def test_the_first_stage_hands_on_100_and_says_what_it_missed(project, run, capsys):
    rivals.main(given(PARAMS), run, DATA.name)
    told = read_json(cell("rivals", DATA.name) / "two_stage.json")
    lists = read_tests(DATA)["two-stage"]
    assert {len(items) for items in lists.candidates} == {100} and told["lists"] == USERS
    assert RIVALS[told["first_stage"]].labels == "all"
    assert told["share_missing"] == told["missing"] / USERS < 0.5
    assert f"two-stage lists by {told['first_stage']}" in capsys.readouterr().out


def test_the_first_stage_serves_the_few_users_of_long_lists(project, run, monkeypatch):
    monkeypatch.setattr(splits, "LONG_USERS", 7)
    rivals.main(given(PARAMS), run, DATA.name)
    tests = read_tests(DATA)
    few = splits.with_long_lists(tests["matched"].user, 0)
    assert len(few) == 7 and tests["two-stage"].user.tolist() == few.tolist()
    for user, candidates, place in zip(few, tests["two-stage"].candidates, tests["two-stage"].positive, strict=True):
        (own,) = np.flatnonzero(tests["matched"].user == user)
        assert candidates[place] == tests["matched"].candidates[own][tests["matched"].positive[own]]


def test_no_second_stage_where_no_family_asks_for_it(project, run):
    rivals.main(given(PARAMS | {"data_sets": {DATA.name: {"families": ["matched"]}}}), run, DATA.name)
    assert not DATA.test_lists("two-stage").exists()


def test_a_rival_that_was_not_tuned_is_named(project):
    with pytest.raises(UserError, match=r"rivals/item-knn\.json: no such file"):
        fit_chosen(DATA, "item-knn")


def test_every_learned_rival_has_the_labels_of_the_models_and_in_a_row_of_its_own_all():
    same = [name for name, row in RIVALS.items() if row.labels == "same"]
    assert [name for name, row in RIVALS.items() if row.labels == "all"] == [f"{name}-all" for name in same]
    assert {name for name, row in RIVALS.items() if row.labels == "none"} == {"tf-idf", "mean-states"}
    assert RIVALS["item-knn-all"].label == "item-kNN, all labels"


def test_names_and_labels_of_rivals_are_had_without_torch():
    code = "import sys, fisher_ld.evaluation.baselines.catalogue; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
