"""What a run measured is found by its names, read once."""

from functools import cached_property

import pytest

from fisher_ld.config.params import trained
from fisher_ld.config.paths import cell
from fisher_ld.core.errors import UserError
from fisher_ld.experiments.results import Part, Results
from tests.experiments.conftest import FEWER
from tests.given import given

DATA = "movielens-100k"


def read_all(results):
    for owner in (results, *results.parts.values()):
        for name, value in vars(type(owner)).items():
            if isinstance(value, cached_property):
                getattr(owner, name)


@pytest.mark.parametrize(
    "path",
    [
        cell("preprocess", DATA) / "data_report.json",
        cell("adapt_teacher", DATA, 0) / "fit.json",
        cell("adapt_teacher", DATA, 0) / "curve.csv",
        cell("adapt_shallow", DATA, "truncated-2") / "fit.json",
        cell("estimate_fisher", DATA) / "fisher.json",
        cell("estimate_fisher", DATA) / "profile.csv",
        cell("gate", DATA, "small") / "gate.json",
        cell("evaluate", DATA) / "evaluate.json",
        cell("evaluate", DATA) / "calibration.json",
        cell("evaluate", DATA) / "examples.json",
        cell("efficiency", DATA, "small") / "efficiency.json",
        cell("distill", DATA, "small", "uniform", 1) / "fit.json",
        cell("distill", DATA, "small", "fisher-ld", 0) / "weights.csv",
        cell("distill", DATA, "small", "none", 1) / "run.json",
        "metrics/tables/tables.json",
    ],
)
def test_a_missing_file_is_named(here, path):
    (here / path).unlink()
    with pytest.raises(UserError, match=rf"{path}: no such file; run the stage that writes it"):
        read_all(Results(given(FEWER).run))


def test_a_whole_run_is_read(results):
    read_all(results)


def test_files_of_seeds_that_are_not_asked_for_are_not_read(here):
    run = given(FEWER | {"run": FEWER["run"] | {"seeds": [1], "methods": ["uniform"]}}).run
    part = Part(DATA, run)
    assert set(part.fits) == {"teacher", "truncated-2", "small/uniform"}
    assert part.curves["small/uniform"]["seed"].unique().to_list() == [1]


def test_a_comparison_is_found_whichever_model_was_asked_to_be_above(results):
    part = results.parts[DATA]
    row = next(row for row in part.evaluate["comparisons"]["matched"] if row["metric"] == "ndcg_10" and row["low"] != 0)
    turned = part.comparison(row["b"], row["a"])
    assert part.comparison(row["a"], row["b"]) == row
    assert (turned["difference"], turned["low"], turned["high"]) == (-row["difference"], -row["high"], -row["low"])
    assert (turned["mean_a"], turned["a"]) == (row["mean_b"], row["b"])
    row["verdict"] = "shown above"
    assert part.comparison(row["b"], row["a"])["verdict"] == "shown below"


def test_a_method_without_layers_has_no_weights(results):
    part = results.parts[DATA]
    assert "small/none" in trained(part.run) and "small/none" not in part.weights
    assert part.changing("small/fisher-ld") and not part.changing("small/fisher") and not part.changing("small/none")


def test_a_run_without_the_proposed_method_is_about_its_last():
    assert Results(given().run).method == "fisher-ld"
    assert Results(given({"run": {"methods": ["none", "uniform"]}}).run).method == "uniform"
