"""Who is shown, and what of whom."""

import numpy as np
import pytest

from fisher_ld.batches.lists import read_lists
from fisher_ld.evaluation.examples import draw, examples, models, order, shared
from fisher_ld.evaluation.scores import write_scores
from tests.evaluation.world import CANDIDATES, CHANGES, DATA, SKILL, USERS, write_processed, write_skilled
from tests.given import given

RUN = given(CHANGES).run


@pytest.fixture
def lists(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_processed(DATA.processed)
    lists = read_lists(DATA.processed, "test_matched")
    for number, (model, seed) in enumerate(models(RUN)):
        write_skilled(DATA.test(model, seed) / "matched.parquet", lists, SKILL[model], number)
    return lists


def test_a_users_items_titles_and_ranks(lists):
    found = examples(DATA, RUN, seed=0)
    assert len(found["users"]) == 5 and found["lists"] == USERS
    number = int(np.flatnonzero(lists.user == found["users"][0]["user"])[0])
    candidates, positive = lists.candidates[number], lists.positive[number]
    scores = [np.arange(CANDIDATES, dtype=float)] * USERS  # the last candidate is the best
    write_scores(DATA.test("small/uniform", 0) / "matched.parquet", range(USERS), scores)
    row = examples(DATA, RUN, seed=0)["users"][0]
    own = row["models"]["small/uniform"]
    assert own["top"] == [f"m{item}" for item in candidates[::-1][:5]]
    assert (own["rank"], row["candidates"]) == (CANDIDATES - positive, CANDIDATES)
    assert row["liked"] == f"m{candidates[positive]}"
    assert row["history"] == [f"m{item}" for item in lists.history(number)]


def test_users_are_drawn_by_the_seed_whatever_was_scored(lists):
    def users(seed):
        return [row["user"] for row in examples(DATA, RUN, seed)["users"]]

    first = users(0)
    assert len(set(first)) == 5 and users(1) != first
    for model in ("teacher", "small/uniform", "small/fisher-ld"):
        scores = np.random.default_rng(7).normal(size=(USERS, CANDIDATES))
        write_scores(DATA.test(model, 0) / "matched.parquet", range(USERS), list(scores))
    assert users(0) == first


def test_fewer_users_are_all_shown(tiny):
    assert sorted(draw(tiny.lists, 3)) == [0, 1, 2, 3]


def test_equal_scores_stand_as_in_the_list():
    assert order(np.array([0.0, 2.0, 0.0, 2.0])).tolist() == [1, 3, 0, 2]


def test_how_many_of_the_first_five_are_shared_by_hand():
    a, b = np.arange(8), np.array([7, 6, 5, 0, 1, 2, 3, 4])
    assert shared([a, a], [b, a]) == (2 + 5) / 2


def test_the_teacher_shares_all_with_itself_and_a_random_order_what_chance_gives(lists):
    found = examples(DATA, RUN, seed=0)
    assert found["shared"]["teacher"] == 5
    assert found["by_chance"] == pytest.approx(25 / CANDIDATES)
    assert found["shared"]["small/fisher-reversed"] == pytest.approx(25 / CANDIDATES, abs=0.5)  # of no skill
