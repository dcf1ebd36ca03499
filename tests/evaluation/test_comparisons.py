import math

import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import Lists
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation import comparisons as cp
from fisher_ld.evaluation.metrics.catalogue import METRICS
from fisher_ld.evaluation.metrics.diversity import category_matrix
from fisher_ld.evaluation.per_user import chance_metrics, cut, user_metrics
from fisher_ld.evaluation.scores import Scores
from fisher_ld.evaluation.significance import LEVEL, holm
from tests.evaluation.world import make_scores
from tests.given import given

PARAMS = given({"evaluate": {"bootstrap_samples": 400, "permutations": 2000}}).evaluate
CATEGORIES = category_matrix([["a"], ["b"], ["a", "b"], ["c"], []] * 4)


def make_lists(users, size=4, seed=0):
    rng = np.random.default_rng(seed)
    n = len(users)
    candidates = [rng.permutation(20)[:size] for _ in range(n)]
    positive = rng.integers(0, size, n)
    return Lists(np.array(users), np.zeros(n, int), np.ones(n, int), positive, candidates, np.arange(n + 1) * size, [])


LISTS = make_lists(range(300), size=20)
SKILLS = {
    "teacher": 1.2, "rivals/popularity": 0.2, "rivals/item-knn": 0.5, "zero-shot": 0.0, "truncated-2": 0.9,
    "small/start": 0.5, "small/fisher-ld": 1.1, "small/uniform": 1.1, "small/none": 0.6,
}  # fmt: skip


@pytest.fixture(scope="module")
def frames():
    models = {name: [make_scores(LISTS, skill, i)] for i, (name, skill) in enumerate(SKILLS.items())}
    zero, third = models["zero-shot"][0], np.arange(0, 300, 3)
    models["zero-shot"] = [Scores(third, [zero.values[i] for i in third])]
    models["small/none"].append(make_scores(LISTS, SKILLS["small/none"], 10))
    found = {name: [user_metrics(LISTS, scores, CATEGORIES) for scores in runs] for name, runs in models.items()}
    return {"chance": [chance_metrics(LISTS, CATEGORIES)], **found}


def compared(frames, *pairs):
    return cp.compared(frames, "small", "main", pairs, PARAMS, 0)


def test_quality_has_interval_and_n(frames):
    cells = cp.quality(frames, PARAMS, 0)
    cell = cells["teacher"]["ndcg_10"]
    values = frames["teacher"][0]["ndcg_10"].to_numpy()
    assert cell["mean"] == pytest.approx(values.mean())
    assert cell["low"] < cell["mean"] < cell["high"]
    assert cell["high"] - cell["low"] == pytest.approx(2 * 1.96 * values.std() / len(values) ** 0.5, rel=0.2)
    assert (cell["n"], cells["zero-shot"]["ndcg_10"]["n"]) == (300, 100)
    dcg = sum(1 / math.log2(r + 1) for r in range(1, 11))
    assert cells["chance"]["ndcg_10"]["mean"] == pytest.approx(dcg / 20)


def test_comparisons_say_who_is_better(frames):
    rows = {(row["a"], row["b"]): row for group in cp.pairs(frames) for row in cp.compared(frames, *group, PARAMS, 0)}
    assert rows["teacher", "rivals/popularity"]["verdict"] == "shown above"
    assert rows["teacher", "truncated-2"]["student"] is None
    assert rows["small/fisher-ld", "teacher"]["difference"] < 0
    assert rows["small/fisher-ld", "small/none"]["verdict"] == "shown above"
    assert rows["small/fisher-ld", "small/uniform"]["verdict"] == "not shown"
    assert rows["teacher", "zero-shot"]["n"] == 100


def test_holm_is_within_one_group_of_one_student(frames):
    frames = {**frames, **{name.replace("small", "tiny"): runs for name, runs in frames.items() if "small" in name}}
    rows = [row for group in cp.pairs(frames) for row in cp.compared(frames, *group, PARAMS, 0)]
    groups = {(row["student"], row["group"]) for row in rows}
    assert groups == {(None, "main"), *((s, g) for s in ("small", "tiny") for g in ("main", "strategies"))}
    for student, group in groups:
        within = [row for row in rows if (row["student"], row["group"]) == (student, group)]
        assert [row["p_holm"] for row in within] == pytest.approx(holm([row["p_perm"] for row in within]))
    sizes = {key: sum((row["student"], row["group"]) == key for row in rows) for key in groups}
    assert (sizes[None, "main"], sizes["small", "main"], sizes["tiny", "strategies"]) == (4, 7, 1)


def test_the_unit_is_the_seed_averaged_user(frames):
    a, b = (frame["ndcg_10"].to_numpy() for frame in frames["small/none"])
    (row,) = compared(frames, ("small/none", "small/uniform"))
    assert row["mean_a"] == pytest.approx(((a + b) / 2).mean())
    assert row["by_seed"] == pytest.approx([a.mean() - row["mean_b"], b.mean() - row["mean_b"]])
    assert cp.seed_means(frames)["small/none"] == pytest.approx([a.mean(), b.mean()])
    cell = cp.quality(frames, PARAMS, 0)["small/none"]["ndcg_10"]
    assert (cell["mean"], cell["n"]) == (pytest.approx(row["mean_a"]), 300)


def test_claims_are_paired_in_the_metrics_of_the_paper(frames):
    a, b = (frames[model][0]["mrr"].to_numpy() for model in ("small/fisher-ld", "small/uniform"))
    found = cp.claims(frames, PARAMS, 0)["small"]
    assert set(found) == {"ndcg_5", "mrr"}
    assert found["mrr"]["difference"] == pytest.approx(a.mean() - b.mean())
    assert found["mrr"]["by_seed"] == pytest.approx([a.mean() - b.mean()])
    assert found["mrr"]["verdict"] == "not shown"


def test_zero_shot_is_compared_over_its_own_users(frames):
    (row,) = compared(frames, ("teacher", "zero-shot"))
    same = frames["teacher"][0].filter(pl.col("user") % 3 == 0)
    assert row["mean_a"] == pytest.approx(same["ndcg_10"].mean())


def test_the_fewest_permutations_allowed_can_show_something_in_the_largest_group(frames):
    with pytest.raises(UserError, match="permutations"):
        given({"evaluate": {"permutations": 499}})
    fewest = given({"evaluate": {"permutations": 500}}).evaluate.permutations
    everything = {**frames, **{f"small/{method}": frames["teacher"] for method in METHODS}}
    largest = max(len(chosen) for _, _, chosen in cp.pairs(everything))
    assert largest >= 9
    assert holm([2 / (fewest + 1)] + [1.0] * (largest - 1))[0] < LEVEL


def test_pairs_of_the_strategies():
    methods = ["none", "logits", "uniform", "linear", "fisher", "fisher-shuffled", "fisher-ld"]
    groups = {(student, group): pairs for student, group, pairs in cp.pairs({f"s/{m}": [] for m in methods})}
    assert groups["s", "strategies"] == [
        ("s/linear", "s/uniform"),
        ("s/fisher", "s/uniform"),
        ("s/fisher-shuffled", "s/uniform"),
        ("s/fisher-ld", "s/uniform"),
        ("s/fisher-ld", "s/fisher-shuffled"),
        ("s/fisher-ld", "s/fisher"),
    ]


def test_a_run_without_fisher_ld_is_compared_as_far_as_it_goes(frames):
    less = {name: runs for name, runs in frames.items() if name != "small/fisher-ld"}
    groups = {(student, group): pairs for student, group, pairs in cp.pairs(less)}
    assert groups["small", "main"] == [("teacher", "small/start")]
    assert groups["small", "strategies"] == []
    found = cp.evaluate_family(less, PARAMS, 0)
    assert found["claims"] == {}
    assert set(found["retained"]) == {"small/uniform", "small/none"}


def test_retained_share_by_hand():
    teacher, student = np.array([0.5, 0.7, 0.9, 0.7]), np.array([0.4, 0.6, 0.8, 0.6])
    by_chance = np.full(4, 0.2)
    found = cp.retained(student, teacher, by_chance, PARAMS, 0)
    assert found["share"] == pytest.approx(0.6 / 0.7)
    assert found["above_chance"]["share"] == pytest.approx(0.4 / 0.5)
    # resamples of one user give at least .4 / .5, at most .8 / .9
    assert 0.8 <= found["low"] < found["share"] < found["high"] <= 8 / 9
    exact = cp.retained(0.9 * teacher, teacher, by_chance, PARAMS, 0)  # the pairing leaves no spread
    assert (exact["low"], exact["high"]) == pytest.approx((0.9, 0.9))


def test_retained_share_where_some_samples_of_users_have_nothing():
    teacher = np.array([0.5, 0, 0, 0])
    found = cp.retained(0.9 * teacher, teacher, np.full(4, 0.2), PARAMS, 0)
    assert (found["share"], found["low"], found["high"]) == pytest.approx((0.9, 0.9, 0.9))


def test_retained_share_above_chance_needs_a_teacher_above_chance():
    teacher = np.array([0.1, 0.3, 0.2, 0.25])
    assert cp.retained(teacher, teacher, np.full(4, 0.2), PARAMS, 0)["above_chance"] is None
    with pytest.raises(ValueError, match="above 0"):
        cp.retained(teacher, np.zeros(4), np.zeros(4), PARAMS, 0)


def test_of_several_teachers_the_first_is_compared(frames):
    both = {**frames, "teacher": [*frames["teacher"], *frames["rivals/popularity"]]}
    found, alone = cp.evaluate_family(both, PARAMS, 0), cp.evaluate_family(frames, PARAMS, 0)
    assert len(found["seeds"]["teacher"]) == 2
    assert {**found, "seeds": None} == {**alone, "seeds": None}


def test_the_table_is_cut_by_family_and_seed(frames):
    def rows(family, seed, frame):
        return frame.with_columns(model=pl.lit("m"), family=pl.lit(family), seed=pl.lit(seed, pl.Int32))

    one, two = frames["small/none"]
    table = pl.concat([rows("uniform", 7, two), rows("popularity", 7, two), rows("popularity", 0, one)])
    found = cut(table.reverse(), "popularity")
    assert [frame.equals(given) for frame, given in zip(found["m"], (one, two), strict=True)] == [True, True]
    assert found["m"][0].columns == ["user", *METRICS]
