import math
from typing import get_args

import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import Lists
from fisher_ld.config.params import Evaluate, Method, parse
from fisher_ld.core.errors import UserError
from fisher_ld.evaluation import evaluate as ev
from fisher_ld.evaluation.ranking import METRICS, category_matrix
from fisher_ld.evaluation.scores import Scores
from fisher_ld.evaluation.significance import LEVEL, holm

PARAMS = Evaluate(bootstrap_samples=400, permutations=2000)
CATEGORIES = category_matrix([["a"], ["b"], ["a", "b"], ["c"], []] * 4)


def make_lists(users, size=4, seed=0):
    rng = np.random.default_rng(seed)
    n = len(users)
    candidates = [rng.permutation(20)[:size] for _ in range(n)]
    positive = rng.integers(0, size, n)
    return Lists(np.array(users), np.zeros(n, int), np.ones(n, int), positive, candidates, np.arange(n + 1) * size, [])


def make_scores(lists, skill, seed):
    """Normal scores, the positive's raised by `skill`."""
    rng = np.random.default_rng(seed)
    values = [
        rng.normal(size=len(c)) + skill * (np.arange(len(c)) == p)
        for c, p in zip(lists.candidates, lists.positive, strict=True)
    ]
    return Scores(np.arange(len(lists)), values)


LISTS = make_lists(range(300), size=20)
SKILLS = {
    "teacher": 1.2,
    "popularity": 0.2,
    "item-knn": 0.5,
    "zero-shot": 0.0,
    "fisher-ld": 1.1,
    "uniform": 1.1,
    "none": 0.6,
}


@pytest.fixture(scope="module")
def frames():
    models = {name: [make_scores(LISTS, skill, i)] for i, (name, skill) in enumerate(SKILLS.items())}
    models["zero-shot"] = [models["zero-shot"][0].only(np.arange(0, 300, 3))]
    models["none"].append(make_scores(LISTS, SKILLS["none"], 10))
    return ev.family_frames(LISTS, models, CATEGORIES, "teacher", partial=["zero-shot"])


def test_metrics_of_one_user_by_hand():
    lists = Lists(*(np.array([v]) for v in (7, 0, 1, 2)), [np.array([0, 1, 2])], np.array([0, 3]), [])
    row = ev.user_metrics(lists, Scores(np.array([0]), [np.array([3.0, 2.0, 1.0])]), CATEGORIES).row(0, named=True)
    # rank 3 of 3; {a}, {b}, {a, b}: distances 1, 1/2, 1/2
    assert row == pytest.approx(
        {
            "user": 7,
            "ndcg_5": 0.5,
            "ndcg_10": 0.5,
            "mrr": 1 / 3,
            "hit_5": 1,
            "hit_10": 1,
            "auc": 0,
            "diversity_10": 2 / 3,
        }
    )


def test_the_unit_is_the_user_not_the_list():
    lists = make_lists([4, 4, 2], size=2)
    won = [np.where(np.arange(2) == p, sign, 0.0) for p, sign in zip(lists.positive, [1, -1, -1], strict=True)]
    frame = ev.user_metrics(lists, Scores(np.arange(3), won), CATEGORIES)
    assert frame["user"].to_list() == [2, 4]
    assert frame["mrr"].to_list() == pytest.approx([0.5, 0.75])
    assert frame["auc"].to_list() == pytest.approx([0, 0.5])


def test_constant_scorer_is_the_chance_row():
    lists = make_lists([0, 0, 1, 2], size=12)
    constant = Scores(np.arange(4), [np.full(12, 3.5, np.float32)] * 4)
    found, by_chance = ev.user_metrics(lists, constant, CATEGORIES), ev.chance_metrics(lists, np.arange(4), CATEGORIES)
    assert found.equals(by_chance)
    assert by_chance["hit_5"].to_list() == pytest.approx([5 / 12] * 3)


def test_single_candidate_lists_have_no_auc():
    lists = make_lists([0, 1], size=1)
    scores = Scores(np.arange(2), [np.zeros(1)] * 2)
    frame = ev.user_metrics(lists, scores, CATEGORIES)
    assert frame["auc"].null_count() == frame["diversity_10"].null_count() == 2
    cells = ev.quality({"m": [frame]}, PARAMS, 0)["m"]
    assert set(cells) == set(METRICS) - {"auc", "diversity_10"}
    assert cells["mrr"] == {"mean": 1, "low": 1, "high": 1, "n": 2}


def test_all_models_are_measured_on_the_lists_of_the_reference():
    full = make_scores(LISTS, 1.0, 0)
    some = np.array([3, 5, 200])
    found = ev.common_lists(
        {"teacher": [full.only(some)], "student": [full, full], "zero": [full.only(np.array([5, 7]))]},
        "teacher",
        ["zero"],
    )
    assert [len(runs) for runs in found.values()] == [1, 2, 1]
    np.testing.assert_array_equal(found["student"][1].numbers, some)
    np.testing.assert_array_equal(found["student"][0].values[2], full.values[200])
    np.testing.assert_array_equal(found["zero"][0].numbers, [5])


def test_a_student_scored_on_fewer_lists_is_refused():
    full = make_scores(LISTS, 1.0, 0)
    models = {"teacher": [full], "uniform": [full, full.only(np.arange(299))]}
    with pytest.raises(UserError, match="uniform was scored on 299 of the 300 lists that teacher"):
        ev.common_lists(models, "teacher")
    with pytest.raises(UserError, match="zero was scored on 0 of the 1 lists"):
        ev.common_lists(
            {"teacher": [full.only(np.array([1]))], "zero": [full.only(np.array([2]))]}, "teacher", ["zero"]
        )


def test_quality_has_interval_and_n(frames):
    cells = ev.quality(frames, PARAMS, 0)
    cell = cells["teacher"]["ndcg_10"]
    values = frames["teacher"][0]["ndcg_10"].to_numpy()
    assert cell["mean"] == pytest.approx(values.mean())
    assert cell["low"] < cell["mean"] < cell["high"]
    assert cell["high"] - cell["low"] == pytest.approx(2 * 1.96 * values.std() / len(values) ** 0.5, rel=0.2)
    assert (cell["n"], cells["zero-shot"]["ndcg_10"]["n"]) == (300, 100)
    dcg = sum(1 / math.log2(r + 1) for r in range(1, 11))
    assert cells["chance"]["ndcg_10"]["mean"] == pytest.approx(dcg / 20)


def test_comparisons_say_who_is_better(frames):
    rows = {
        (row["a"], row["b"]): row
        for row in ev.comparisons(frames, ev.evaluation_pairs(["fisher-ld", "none", "uniform"]), PARAMS, 0)
    }
    assert rows["teacher", "popularity"]["verdict"] == "shown above"
    assert rows["fisher-ld", "teacher"]["difference"] < 0
    assert rows["fisher-ld", "none"]["verdict"] == "shown above"
    assert rows["fisher-ld", "uniform"]["verdict"] == "not shown"
    assert rows["teacher", "zero-shot"]["n"] == 100
    assert [row["p_holm"] for row in rows.values()] == pytest.approx(holm([row["p_perm"] for row in rows.values()]))
    assert len(rows) == 3 + 5


def test_the_unit_is_the_seed_averaged_user(frames):
    a, b = (frame["ndcg_10"].to_numpy() for frame in frames["none"])
    (row,) = ev.comparisons(frames, [("none", "uniform")], PARAMS, 0)
    assert row["mean_a"] == pytest.approx(((a + b) / 2).mean())
    assert row["by_seed"] == pytest.approx([a.mean() - row["mean_b"], b.mean() - row["mean_b"]])
    assert ev.seed_means(frames) == {"none": pytest.approx([a.mean(), b.mean()])}
    cell = ev.quality(frames, PARAMS, 0)["none"]["ndcg_10"]
    assert (cell["mean"], cell["n"]) == (pytest.approx(row["mean_a"]), 300)


def test_claims_are_paired_in_the_metrics_of_the_paper(frames):
    a, b = (frames[model][0]["mrr"].to_numpy() for model in ("fisher-ld", "uniform"))
    found = ev.claims(frames, PARAMS, 0)
    assert set(found) == {"ndcg_5", "mrr"}
    assert found["mrr"]["difference"] == pytest.approx(a.mean() - b.mean())
    assert found["mrr"]["by_seed"] == pytest.approx([a.mean() - b.mean()])
    assert found["mrr"]["verdict"] == "not shown"


def test_zero_shot_is_compared_over_its_own_users(frames):
    (row,) = ev.comparisons(frames, [("teacher", "zero-shot")], PARAMS, 0)
    own = frames["teacher"][0].filter(pl.col("user") % 3 == 0)
    assert row["mean_a"] == pytest.approx(own["ndcg_10"].mean())


def test_the_fewest_permutations_allowed_can_show_something_in_the_largest_family():
    with pytest.raises(UserError, match="permutations"):
        parse({"evaluate": {"permutations": 499}})
    fewest = parse({"evaluate": {"permutations": 500}}).evaluate.permutations
    methods = get_args(Method)
    largest = max(len(ev.evaluation_pairs(methods)), len(ev.ablation_pairs(methods)))
    assert holm([2 / (fewest + 1)] + [1.0] * (largest - 1))[0] < LEVEL


def test_ablation_pairs():
    found = ev.ablation_pairs(["uniform", "linear", "fisher", "fisher-shuffled", "fisher-ld"])
    assert found == [
        ("linear", "uniform"),
        ("fisher", "uniform"),
        ("fisher-shuffled", "uniform"),
        ("fisher-ld", "uniform"),
        ("fisher-ld", "fisher-shuffled"),
        ("fisher-ld", "fisher"),
    ]


def test_gate(frames):
    found = ev.teacher_gate(frames, 0)
    assert found["passed"]
    assert found["teacher"] == pytest.approx(frames["teacher"][0]["ndcg_10"].mean())
    assert set(found["rivals"]) == {"popularity", "item-knn"}
    assert found["rivals"]["popularity"]["low"] > 0
    swapped = ev.teacher_gate({**frames, "teacher": frames["popularity"], "popularity": frames["teacher"]}, 0)
    assert not swapped["passed"]
    one_rival_is_better = ev.teacher_gate({**frames, "teacher": frames["item-knn"], "item-knn": frames["teacher"]}, 0)
    assert one_rival_is_better["rivals"]["popularity"]["low"] > 0
    assert not one_rival_is_better["passed"]


def test_gate_needs_more_than_a_draw(frames):
    same = frames["item-knn"]
    assert not ev.teacher_gate({**frames, "teacher": same}, 0)["passed"]


def test_retained_share_by_hand():
    teacher, student = np.array([0.5, 0.7, 0.9, 0.7]), np.array([0.4, 0.6, 0.8, 0.6])
    by_chance = np.full(4, 0.2)
    found = ev.retained(student, teacher, by_chance, PARAMS, 0)
    assert found["share"] == pytest.approx(0.6 / 0.7)
    assert found["above_chance"]["share"] == pytest.approx(0.4 / 0.5)
    # resamples of one user give at least .4 / .5, at most .8 / .9
    assert 0.8 <= found["low"] < found["share"] < found["high"] <= 8 / 9
    exact = ev.retained(0.9 * teacher, teacher, by_chance, PARAMS, 0)  # the pairing leaves no spread
    assert (exact["low"], exact["high"]) == pytest.approx((0.9, 0.9))


def test_retained_share_where_some_samples_of_users_have_nothing():
    teacher = np.array([0.5, 0, 0, 0])
    found = ev.retained(0.9 * teacher, teacher, np.full(4, 0.2), PARAMS, 0)
    assert (found["share"], found["low"], found["high"]) == pytest.approx((0.9, 0.9, 0.9))


def test_retained_share_above_chance_needs_a_teacher_above_chance():
    teacher = np.array([0.1, 0.3, 0.2, 0.25])
    assert ev.retained(teacher, teacher, np.full(4, 0.2), PARAMS, 0)["above_chance"] is None
    with pytest.raises(ValueError, match="above 0"):
        ev.retained(teacher, np.zeros(4), np.zeros(4), PARAMS, 0)


def test_tables(frames):
    table = ev.per_user({"popularity": frames, "uniform": frames})
    assert table.columns == ["model", "family", "seed", "user", *METRICS]
    assert table.height == 2 * (300 * 8 + 100)
    cells = {"popularity": ev.quality(frames, PARAMS, 0)}
    rows = ev.plot_rows(cells)
    assert rows.columns == ["model", "family", "metric", "value", "low", "high", "chance"]
    assert rows.height == 7 * len(METRICS)
    row = rows.row(by_predicate=(pl.col("model") == "none") & (pl.col("metric") == "mrr"), named=True)
    assert row["value"] == cells["popularity"]["none"]["mrr"]["mean"]
    assert row["chance"] == cells["popularity"]["chance"]["mrr"]["mean"]
