import numpy as np
import pytest

from fisher_ld.evaluation.baselines.tuning import choices, tune
from tests.evaluation.baselines.likes import lists_of

GRID = {"a": (3, 1, 2), "b": ("x", "y")}


class Ordered:
    """Puts candidate `first` on top, and remembers how often it was asked."""

    GRID = {"first": (2, 0, 1, 0)}  # noqa: RUF012
    fitted = 0

    def __init__(self, first):
        self.first = first

    @classmethod
    def fit(cls, evidence, first):
        assert evidence == "evidence"
        cls.fitted += 1
        return cls(first)

    def score(self, lists):
        return [(items == self.first).astype(float) for items in lists.candidates]


def test_all_settings_are_tried_where_the_trials_allow():
    assert choices(GRID, 6) == choices(GRID, 99) == [{"a": a, "b": b} for a in (3, 1, 2) for b in ("x", "y")]
    assert choices({}, 12) == [{}]


def test_fewer_trials_are_spread_over_the_grid_and_start_with_its_first():
    assert choices(GRID, 1) == [{"a": 3, "b": "x"}]
    assert choices(GRID, 3) == [{"a": 3, "b": "x"}, {"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert len(choices({"a": tuple(range(100))}, 12)) == 12


def test_the_best_on_the_validation_lists_is_chosen_and_every_trial_told():
    Ordered.fitted = 0
    lists = lists_of([0, 1], [2, 2], [[0, 1, 2], [2, 0, 1]], positive=[0, 1])  # 0 is the positive of both
    found = tune(Ordered, "evidence", lists, 4)
    assert Ordered.fitted == 4
    assert found.settings == {"first": 0} and found.ndcg_10 == 1
    assert [trial["settings"]["first"] for trial in found.tried] == [2, 0, 1, 0]
    # on top a negative; the positive is tied with another at ranks 2 and 3
    assert found.tried[0]["ndcg_10"] == pytest.approx((1 / np.log2(3) + 1 / np.log2(4)) / 2)
    np.testing.assert_array_equal(found.scores[1], [0, 1, 0])
    assert "scores" not in found.record()


def test_what_tells_no_candidate_from_another_is_tried_once():
    Ordered.fitted = 0
    found = tune(Ordered, "evidence", lists_of([0, 1], [2, 2], [[3, 4], [4, 3]]), 4)
    assert Ordered.fitted == 1 and found.settings == {"first": 2}
    tune(Ordered, "evidence", lists_of([0, 1], [2, 2], [[3, 4], [4, 2]]), 4)
    assert Ordered.fitted == 5
