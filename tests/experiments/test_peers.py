"""Models between quality and cost."""

import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.experiments.peers import Place, front, places


def test_the_front_is_what_nothing_beats_the_slowest_first():
    found = {
        "fast": Place(0.3, 5.0, 20.0),
        "teacher": Place(0.5, 1.0, 100.0),
        "as fast, worse": Place(0.2, 5.0, 20.0),
        "as good, slower": Place(0.3, 4.0, 20.0),
        "between": Place(0.4, 2.0, 90.0),
        "twin": Place(0.4, 2.0, 10.0),
        "slower and worse": Place(0.35, 1.5, 10.0),
    }
    assert front(found) == ["teacher", "between", "twin", "fast"]


def test_every_method_has_the_cost_of_its_shape_and_its_own_quality(results):
    part = results.parts["movielens-100k"]
    found = places(part)
    assert set(found) == {"teacher", "truncated-2", *(f"small/{method}" for method in part.run.methods)}
    assert (found["teacher"].throughput, found["teacher"].parameters) == (1, 100)
    assert found["small/none"].throughput == found["small/fisher-ld"].throughput == pytest.approx(5)
    assert found["small/none"].quality == part.quality("small/none")["mean"]


def test_a_model_that_was_not_scored_has_no_place(edited):
    path = DataPaths("movielens-100k").evaluate
    results = edited(path, lambda content: content["quality"]["matched"].pop("truncated-2"))
    assert "truncated-2" not in places(results.parts["movielens-100k"])
