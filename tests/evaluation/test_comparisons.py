import math

import numpy as np
import polars as pl
import pytest

from fisher_ld.batches.lists import Lists, read_lists
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import write_json
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation import comparisons as cp
from fisher_ld.evaluation.comparisons import Known, Pair
from fisher_ld.evaluation.metrics.catalogue import METRICS
from fisher_ld.evaluation.metrics.diversity import category_matrix
from fisher_ld.evaluation.per_user import chance_metrics, cut, user_metrics
from fisher_ld.evaluation.scores import Scores
from fisher_ld.evaluation.significance import holm
from fisher_ld.experiments.tables import paper
from tests.evaluation.world import DATA, fit, make_scores, write_processed, write_skilled
from tests.given import given

PARAMS = given({"evaluate": {"permutations": 500}}).evaluate
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
    "truncated-6": 1.0, "small/start": 0.5, "small/fisher-ld": 1.1, "small/uniform": 1.1, "small/logits": 1.0,
    "small/none": 0.4,
}  # fmt: skip
SEEDS = {"teacher": 2, "small/fisher-ld": 3, "small/uniform": 3, "small/logits": 3, "small/none": 3}


def gate(depth=2, rival="rivals/item-knn"):
    return {"truncated": {"depth": depth}, "best_rival": rival}


def fits(**changes):
    """Of students that learned."""
    known = {m: fit(0.4, layer_loss=0.6 if METHODS[m].layers else None) for m in VALIDATION}
    return {f"small/{m}": [f | changes.get(m.replace("-", "_"), {})] * 3 for m, f in known.items()}


def known_of(fits, student="small", depth=2, **validation):
    """What is known of one student, fisher-ld its best on validation lists."""
    quality = {f"{student}/{m}": [q] * 3 for m, q in {**VALIDATION, **validation}.items()}
    return Known({student: gate(depth)}, fits, quality)


VALIDATION = {"none": 0.3, "logits": 0.4, "uniform": 0.45, "fisher-ld": 0.5}
KNOWN = known_of(fits())


@pytest.fixture(scope="module")
def frames():
    models = {
        name: [make_scores(LISTS, skill, 100 * i + seed) for seed in range(SEEDS.get(name, 1))]
        for i, (name, skill) in enumerate(SKILLS.items())
    }
    zero, third = models["zero-shot"][0], np.arange(0, 300, 3)
    models["zero-shot"] = [Scores(third, [zero.values[i] for i in third])]
    found = {name: [user_metrics(LISTS, scores, CATEGORIES) for scores in runs] for name, runs in models.items()}
    return {"chance": [chance_metrics(LISTS, CATEGORIES)], **found}


@pytest.fixture(scope="module")
def rows(frames):
    return cp.evaluate_family(frames, KNOWN, PARAMS, 0)["comparisons"]


def compared(frames, *pairs, known=KNOWN):
    return cp.compared(frames, "small", "main", [Pair(*pair) for pair in pairs], known, PARAMS, 0)


def by_pair(rows, student, group):
    return {(r["a"], r["b"]): r for r in rows if (r["student"], r["group"]) == (student, group)}


def test_quality_has_interval_and_n(frames):
    cells = cp.quality(frames)
    cell = cells["rivals/item-knn"]["ndcg_10"]
    values = frames["rivals/item-knn"][0]["ndcg_10"].to_numpy()
    assert cell["mean"] == pytest.approx(values.mean())
    assert cell["high"] - cell["low"] == pytest.approx(2 * 1.968 * values.std(ddof=1) / 300**0.5, rel=1e-3)
    assert (cell["n"], cell["seeds"], cells["zero-shot"]["ndcg_10"]["n"]) == (300, 1, 100)
    dcg = sum(1 / math.log2(r + 1) for r in range(1, 11))
    assert cells["chance"]["ndcg_10"]["mean"] == pytest.approx(dcg / 20)


def test_quality_of_several_runs_counts_how_they_vary(frames):
    run = frames["small/none"][0]
    lucky = {"m": [run.with_columns(pl.col("ndcg_10") + shift) for shift in (-0.1, 0.0, 0.1)]}
    cell, alone = cp.quality(lucky)["m"]["ndcg_10"], cp.quality({"m": [run]})["m"]["ndcg_10"]
    assert (cell["mean"], cell["n"], cell["seeds"]) == (pytest.approx(alone["mean"]), 300, 3)
    assert cell["high"] - cell["low"] > 3 * (alone["high"] - alone["low"])
    assert (cell["spread"], alone["spread"]) == (pytest.approx(0.1), None)


def test_the_best_method_is_that_of_the_validation_lists(frames):
    """On the test lists it is the worst."""
    known = known_of(fits(), none=0.9)
    [best] = [chosen for _, group, chosen in cp.pairs(frames, known) if group == "best"]
    assert known.best("small", list(VALIDATION)) == "small/none"
    assert [(pair.a, pair.b) for pair in best] == [("small/fisher-ld", "small/none")]  # the others were tested before
    means = {m: cp.quality({m: frames[m]})[m]["ndcg_10"]["mean"] for m in fits()}
    assert min(means, key=means.__getitem__) == "small/none"


def test_comparisons_say_who_is_better(rows):
    teacher, main = by_pair(rows, None, "main"), by_pair(rows, "small", "main")
    assert teacher["teacher", "rivals/popularity"]["verdict"] == "shown above"
    assert teacher["teacher", "zero-shot"]["n"] == 100
    assert main["small/fisher-ld", "teacher"]["difference"] < 0
    assert main["small/logits", "small/none"]["verdict"] == "shown above"
    weighted = by_pair(rows, "small", "strategies")
    assert weighted["small/fisher-ld", "small/uniform"]["verdict"] in ("not shown", "equal")
    assert weighted["small/fisher-ld", "small/uniform"]["question"] == "fisher_over_uniform"
    assert all(row["why"] is None for row in rows)


def test_a_difference_that_is_not_shown_is_equal_within_the_margin_or_not():
    frame = pl.DataFrame({"user": range(900), **dict.fromkeys(METRICS, 0.5)})
    noise = np.random.default_rng(0).normal(size=900)
    noise = (noise - noise.mean()) / noise.std()
    near, far = ([frame.with_columns(ndcg_10=0.5 + spread * noise)] for spread in (0.05, 0.5))
    given = {"near": near, "far": far, "same": [frame]}
    equal, unknown = compared(given, ("near", "same"), ("far", "same"))
    assert (equal["verdict"], unknown["verdict"]) == ("equal", "not shown")
    assert equal["detectable"] < PARAMS.margin < unknown["detectable"]


def test_every_question_is_a_pair_of_models():
    known = known_of({}, depth=6)
    assert {key: (pair.a, pair.b) for key in cp.QUESTIONS for pair in [known.pair(key, "small")]} == {
        "teacher_over_truncation": ("teacher", "truncated-6"),
        "teacher_over_rival": ("teacher", "rivals/item-knn"),
        "distillation_over_labels": ("small/logits", "small/none"),
        "layers_over_logits": ("small/uniform", "small/logits"),
        "fisher_over_uniform": ("small/fisher-ld", "small/uniform"),
        "fisher_over_shuffled": ("small/fisher-ld", "small/fisher-shuffled"),
        "fisher_over_reversed": ("small/fisher-ld", "small/fisher-reversed"),
    }


def test_rows_say_which_question_they_answer(rows):
    found = {row["question"]: (row["student"], row["group"], row["a"], row["b"]) for row in rows if row["question"]}
    assert found == {
        "teacher_over_truncation": ("small", "main", "teacher", "truncated-2"),
        "teacher_over_rival": (None, "main", "teacher", "rivals/item-knn"),
        "distillation_over_labels": ("small", "main", "small/logits", "small/none"),
        "layers_over_logits": ("small", "main", "small/uniform", "small/logits"),
        "fisher_over_uniform": ("small", "strategies", "small/fisher-ld", "small/uniform"),
    }


def test_pairs_of_a_run_with_all_methods():
    models = ["teacher", "zero-shot", "rivals/item-knn", "rivals/item-knn-all", "truncated-2", "truncated-6", "s/start"]
    known = known_of({}, "s", 6, **{m: 0.9 if m == "linear" else 0.4 for m in METHODS})
    found = {
        (student, group): [(pair.a, pair.b) for pair in chosen]
        for student, group, chosen in cp.pairs({m: [] for m in (*models, *(f"s/{m}" for m in METHODS))}, known)
    }
    others = ["rivals/item-knn", "rivals/item-knn-all", "zero-shot", "truncated-2"]
    assert found[None, "main"] == [("teacher", other) for other in others]
    assert found["s", "main"] == [
        ("teacher", "truncated-6"),
        ("s/logits", "s/none"),
        ("s/uniform", "s/logits"),
        ("s/fisher-ld", "s/fisher-shuffled"),
        ("s/fisher-ld", "s/fisher-reversed"),
        ("s/linear", "teacher"),
        *((f"s/{m}", other) for m in ("logits", "uniform", "fisher-ld") for other in ("rivals/item-knn", "s/start")),
    ]
    assert found["s", "peers"] == [
        ("s/linear", "truncated-2"),
        ("s/linear", "truncated-6"),
        ("s/fisher-ld", "teacher"),
        ("s/fisher-ld", "truncated-2"),
        ("s/fisher-ld", "truncated-6"),
    ]
    weighted = [m for m in METHODS if METHODS[m].weighting]
    assert {"linear", "fisher", "fisher-reversed", "fisher-ld"} < set(weighted) and "pkd" not in weighted
    assert found["s", "claims"] == [
        ("s/fisher-ld", f"s/{m}")
        for m in (*["uniform"] * 2, *["minilm"] * 2, "fisher-ld-no-depth", "fisher", "fisher-ld-no-sampling", "logits")
    ]
    assert found["s", "strategies"] == [(f"s/{m}", "s/uniform") for m in weighted if m != "uniform"]
    assert found["s", "methods"] == [(f"s/{m}", "s/uniform") for m in METHODS if m not in {*weighted, "logits"}]
    assert found["s", "best"] == [(f"s/{m}", "s/linear") for m in METHODS if m not in ("linear", "uniform")]


def test_two_models_are_tested_once():
    """So that no page can say two things of them."""
    models = ["teacher", "rivals/item-knn", "truncated-2", "truncated-6", "s/start", *(f"s/{m}" for m in METHODS)]
    known = known_of({}, "s", 6, **{m: 0.9 if m == "fisher-shuffled" else 0.4 for m in METHODS})
    asked = [
        (frozenset((pair.a, pair.b)), pair.metric)
        for _, _, chosen in cp.pairs({m: [] for m in models}, known)
        for pair in chosen
    ]
    assert len(asked) == len(set(asked)) and all(len(pair) == 2 for pair, _ in asked)


def test_a_run_without_fisher_ld_is_compared_as_far_as_it_goes(frames):
    less = {name: runs for name, runs in frames.items() if name != "small/fisher-ld"}
    groups = {(student, group): pairs for student, group, pairs in cp.pairs(less, KNOWN)}
    assert Pair("small/uniform", "teacher") in groups["small", "main"]  # then the best
    assert groups["small", "strategies"] == []
    found = cp.evaluate_family(less, KNOWN, PARAMS, 0)
    assert not [row for row in found["comparisons"] if row["group"] == "claims"]
    assert set(found["retained"]) == {"small/uniform", "small/logits", "small/none"}


def test_holm_is_within_one_group_of_one_student(frames):
    frames = {**frames, **{name.replace("small", "tiny"): runs for name, runs in frames.items() if "small" in name}}
    tiny = {name.replace("small", "tiny"): runs for name, runs in fits().items()}
    both = known_of({}, "tiny", 6).validation
    known = Known({"small": gate(), "tiny": gate(6)}, fits() | tiny, {**KNOWN.validation, **both})
    rows = cp.evaluate_family(frames, known, PARAMS, 0)["comparisons"]
    groups = {(row["student"], row["group"]) for row in rows}
    names = ("strategies", "main", "claims", "peers", "methods", "best")
    assert groups == {(None, "main"), *((s, g) for s in ("small", "tiny") for g in names)}
    for student, group in groups:
        within = [row for row in rows if (row["student"], row["group"]) == (student, group)]
        assert [row["p_holm"] for row in within] == pytest.approx(holm([row["p"] for row in within]))
        one = within[0]
        assert (one["detectable_holm"] > one["detectable"]) == (len(within) > 1)
    assert [row["b"] for row in rows if row["question"] == "teacher_over_truncation"] == ["truncated-2", "truncated-6"]
    assert ("teacher", "truncated-2") not in by_pair(rows, None, "main")


def test_methods_are_paired_by_seed(frames):
    (row,) = compared(frames, ("small/none", "small/uniform"))
    a, b = ([frame["ndcg_10"].to_numpy() for frame in frames[m]] for m in ("small/none", "small/uniform"))
    assert row["by_seed"] == pytest.approx([(x - y).mean() for x, y in zip(a, b, strict=True)])
    assert (row["seeds"], row["n"]) == (3, 300)
    assert cp.seed_means(frames)["small/none"] == pytest.approx([x.mean() for x in a])


def test_the_teachers_own_comparisons_have_all_its_runs_and_those_with_a_student_the_first(frames, rows):
    first, second = (frame["ndcg_10"].to_numpy().mean() for frame in frames["teacher"])
    rival, kept = by_pair(rows, None, "main")["teacher", "rivals/popularity"], by_pair(rows, "small", "main")
    assert (rival["seeds"], rival["mean_a"]) == (2, pytest.approx((first + second) / 2))
    assert kept["small/fisher-ld", "teacher"]["mean_b"] == pytest.approx(first)
    assert kept["small/fisher-ld", "teacher"]["seeds"] == 3


@pytest.mark.parametrize(
    ("outcome", "why"),
    [
        ({"moved": 0.0006}, "small/uniform did not move: 0.06% of its start's norm, expected at least 1%"),
        ({"same_order": 0.92}, "small/uniform did not move: it orders 92% of the validation lists as its start does"),
        ({"layer_loss": 1.0}, "small/uniform learned nothing of the layers: their loss is 1.00 of the constant"),
    ],
)
def test_a_student_to_whom_nothing_happened_is_no_test(frames, outcome, why):
    known = known_of(fits(uniform=outcome))
    pairs = [
        ("small/uniform", "small/none"),
        ("small/fisher-ld", "small/uniform"),
        ("small/uniform", "rivals/item-knn"),
    ]
    sound = [("small/logits", "small/none"), ("teacher", "rivals/item-knn"), ("small/fisher-ld", "teacher")]
    rows = compared(frames, *pairs, *sound, known=known)
    assert [row["verdict"] == "not tested" for row in rows] == [True] * 3 + [False] * 3
    assert all(row["why"].startswith(why) for row in rows[:3])
    assert [row["why"] for row in rows[3:]] == [None] * 3
    claims = [row for row in cp.evaluate_family(frames, known, PARAMS, 0)["comparisons"] if row["group"] == "claims"]
    assert [(row["metric"], row["verdict"] == "not tested") for row in claims] == [
        ("ndcg_5", True), ("mrr", True), ("ndcg_10", False),
    ]  # fmt: skip


def test_outcomes_are_means_over_seeds_and_the_bounds_are_no_fault(frames):
    def said(*moved):
        known = known_of({"small/uniform": [fit(0.4, moved=m, same_order=0.9) for m in moved]})
        return cp.untested("small/uniform", known)

    assert said(0.0, 0.01, 0.02) is None
    assert "did not move" in said(0.0, 0.01, 0.01)
    both = known_of(fits(uniform={"moved": 0.0}, fisher_ld={"layer_loss": 1.2}))
    (row,) = compared(frames, ("small/fisher-ld", "small/uniform"), known=both)
    assert "learned nothing of the layers" in row["why"] and "did not move" in row["why"]


def test_what_was_known_is_read_from_gate_and_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = given({"run": {"students": ["small"], "methods": ["none", "logits"], "seeds": [4, 1]}}).run
    write_json(DATA.gate("small"), gate(7, "rivals/tf-idf"))
    write_processed(DATA.processed)
    lists = read_lists(DATA.processed, "val")
    for seed in (4, 1):
        for method, skill in (("none", 0.0), ("logits", 9.0)):
            write_json(DATA.training(f"small/{method}", seed) / "fit.json", fit(0.1 * seed))
            write_skilled(DATA.validation(f"small/{method}", seed), lists, skill, seed)
    known = Known.read(DATA, run)
    assert (known.truncation("small"), known.rival("small")) == ("truncated-7", "rivals/tf-idf")
    assert [f["validation_ndcg_10"] for f in known.fits["small/logits"]] == [0.4, 0.1]
    assert known.best("small", ["none", "logits"]) == "small/logits"
    first, second = known.validation["small/logits"]
    assert first == pytest.approx(1) == pytest.approx(second)  # of the scores, not what training saw of some lists
    assert all(score < 0.7 for score in known.validation["small/none"])
    (DATA.training("small/none", 1) / "fit.json").unlink()
    with pytest.raises(UserError, match=r"distill/movielens-100k/small/none/1/fit\.json: no such file"):
        Known.read(DATA, run)


def test_claims_are_paired_in_the_metrics_of_the_paper(frames, rows):
    found = {row["metric"]: row for row in rows if row["group"] == "claims" and row["b"] == "small/uniform"}
    assert set(found) == {"ndcg_5", "mrr"}
    a, b = (np.stack([f["mrr"].to_numpy() for f in frames[m]]) for m in ("small/fisher-ld", "small/uniform"))
    assert found["mrr"]["by_seed"] == pytest.approx((a - b).mean(1))


def test_what_the_paper_claims_of_ours_over_a_method_is_tested():
    """Whichever method is the best one here."""
    asked = {(c["against"], c.get("metric", "ndcg_10")) for c in paper()["claims"] if c.get("measure") == "gain"
             and c.get("model", "fisher-ld") == "fisher-ld"}  # fmt: skip
    claimed = {(method, metric) for method, metrics in cp.CLAIMED.items() for metric in metrics}
    assert asked == claimed | {("uniform", "ndcg_10")}  # of which the last is a question of its own


def test_zero_shot_is_compared_over_its_own_users(frames):
    (row,) = compared(frames, ("teacher", "zero-shot"))
    same = [frame.filter(pl.col("user") % 3 == 0)["ndcg_10"].mean() for frame in frames["teacher"]]
    assert row["mean_a"] == pytest.approx(np.mean(same))


def test_retained_share_by_hand():
    teacher, student = np.array([[0.5, 0.7, 0.9, 0.7]]), np.array([[0.4, 0.6, 0.8, 0.6], [0.3, 0.5, 0.7, 0.5]])
    found = cp.retained(student, teacher, np.full(4, 0.2))
    assert (found["n"], found["seeds"], found["share"]) == (4, 2, pytest.approx(0.55 / 0.7))
    assert found["above_chance"]["share"] == pytest.approx(0.35 / 0.5)
    assert found["low"] < found["share"] < found["high"]


def test_retained_share_above_chance_needs_a_teacher_above_chance():
    teacher = np.array([[0.1, 0.3, 0.2, 0.25]])
    assert cp.retained(teacher, teacher, np.full(4, 0.2))["above_chance"] is None
    assert cp.retained(teacher, np.zeros((1, 4)), np.zeros(4)) is None


def test_the_table_is_cut_by_family_and_seed(frames):
    def rows(family, seed, frame):
        return frame.with_columns(model=pl.lit("m"), family=pl.lit(family), seed=pl.lit(seed, pl.Int32))

    one, two, _ = frames["small/none"]
    table = pl.concat([rows("uniform", 7, two), rows("matched", 7, two), rows("matched", 0, one)])
    found = cut(table.reverse(), "matched")
    assert [frame.equals(given) for frame, given in zip(found["m"], (one, two), strict=True)] == [True, True]
    assert found["m"][0].columns == ["user", *METRICS]


def test_families_that_are_in_the_table_are_evaluated_the_main_one_first(frames):
    def rows(family):
        return [
            frame.with_columns(model=pl.lit(model), family=pl.lit(family), seed=pl.lit(seed))
            for model, runs in frames.items()
            for seed, frame in enumerate(runs)
        ]

    table = pl.concat([*rows("two-stage"), *rows("matched")])
    found = cp.evaluate(table, KNOWN, PARAMS, 0)
    assert list(found) == ["quality", "seeds", "comparisons", "retained", "validation"]
    assert all(list(found[part]) == ["matched", "two-stage"] for part in found if part != "validation")
    assert found["quality"]["matched"] == found["quality"]["two-stage"]
