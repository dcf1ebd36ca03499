import numpy as np
import pytest

from fisher_ld.batches.lists import Lists
from fisher_ld.core.files import read_yaml
from fisher_ld.evaluation.comparisons import quality
from fisher_ld.evaluation.metrics.catalogue import METRICS, Metric
from fisher_ld.evaluation.per_user import chance_metrics, scored_models, user_metrics
from fisher_ld.evaluation.scores import Scores
from fisher_ld.run.stage import restrict
from tests.evaluation.test_comparisons import CATEGORIES, make_lists
from tests.evaluation.world import RIVALS
from tests.given import ROOT, given


def test_metrics_of_one_user_by_hand():
    lists = Lists(*(np.array([v]) for v in (7, 0, 1, 2)), [np.array([0, 1, 2])], np.array([0, 3]), [])
    row = user_metrics(lists, Scores(np.array([0]), [np.array([3.0, 2.0, 1.0])]), CATEGORIES).row(0, named=True)
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
    frame = user_metrics(lists, Scores(np.arange(3), won), CATEGORIES)
    assert frame["user"].to_list() == [2, 4]
    assert frame["mrr"].to_list() == pytest.approx([0.5, 0.75])
    assert frame["auc"].to_list() == pytest.approx([0, 0.5])


def test_constant_scorer_is_the_chance_row():
    lists = make_lists([0, 0, 1, 2], size=12)
    constant = Scores(np.arange(4), [np.full(12, 3.5, np.float32)] * 4)
    found, by_chance = user_metrics(lists, constant, CATEGORIES), chance_metrics(lists, CATEGORIES)
    assert found.equals(by_chance)
    assert by_chance["hit_5"].to_list() == pytest.approx([5 / 12] * 3)


def test_single_candidate_lists_have_no_auc():
    lists = make_lists([0, 1], size=1)
    scores = Scores(np.arange(2), [np.zeros(1)] * 2)
    frame = user_metrics(lists, scores, CATEGORIES)
    assert frame["auc"].null_count() == frame["diversity_10"].null_count() == 2
    cells = quality({"m": [frame]})["m"]
    assert set(cells) == set(METRICS) - {"auc", "diversity_10"}
    assert cells["mrr"] == {"mean": 1, "low": 1, "high": 1, "n": 2, "seeds": 1, "spread": None}


def test_chance_values_that_are_known():
    lists = make_lists(range(3), size=5)
    assert chance_metrics(lists, CATEGORIES)["ndcg_5"].to_list() == pytest.approx([0.590] * 3, abs=5e-4)
    lists = make_lists(range(3), size=20)
    assert chance_metrics(lists, CATEGORIES)["ndcg_5"].to_list() == pytest.approx([0.147] * 3, abs=5e-4)


def test_every_cell_of_a_run_is_on_the_shelf_once():
    params = given({
        "run": {"students": ["small", "tiny"], "methods": ["none", "fisher-ld"], "seeds": [3, 1],
            "further_methods": ["uniform"],
            "shallow": ["truncated-2", "truncated-5"],
                "teacher_seeds": [4, 0]},
    })  # fmt: skip
    declared = read_yaml(ROOT / "dvc.yaml")["stages"]["evaluate"]["do"]["params"]
    seen = restrict(params, "evaluate", tuple(declared))  # as the stage sees them
    students = [
        (f"{student}/{model}", seed)
        for student in ("small", "tiny")
        for model, seeds in (("start", [0]), ("none", [3, 1]), ("fisher-ld", [3, 1]), ("uniform", [3, 1]))
        for seed in seeds
        if (student, model) != ("tiny", "uniform")
    ]
    assert list(scored_models(seen.run, seen.rivals)) == [
        ("teacher", 4),
        ("teacher", 0),
        ("zero-shot", 0),
        *((name, 0) for name in RIVALS),
        ("truncated-2", 0),
        ("truncated-5", 0),
        *students,
    ]


def test_a_metric_is_a_row(monkeypatch):
    monkeypatch.setitem(METRICS, "first", Metric("first", lambda ranking: (ranking.better == 0) / ranking.tied))
    lists = make_lists([0, 1], size=4)
    frame = user_metrics(lists, Scores(np.arange(2), [np.zeros(4), np.arange(4.0)]), CATEGORIES)
    assert frame["first"].to_list() == [0.25, float(lists.positive[1] == 3)]
    assert quality({"m": [frame]})["m"]["first"]["mean"] == frame["first"].mean()
