"""How soon a method is as good as uniform layers become, by curves whose crossings are known."""

import polars as pl
import pytest

from fisher_ld.config.paths import DataPaths
from fisher_ld.core.files import write_csv
from fisher_ld.experiments.claims import judge
from fisher_ld.experiments.convergence import steps_to_target
from fisher_ld.experiments.results import Results
from fisher_ld.experiments.tables import paper
from tests.experiments.conftest import FEWER
from tests.given import given

PATHS = DataPaths("movielens-100k")
CHANCE = 0.2


@pytest.fixture
def part(edited):
    """Validated every 50 steps; uniform layers end with a gain of 0.2 and 0.4, 0.3 in the mean: 0.485 is wanted."""

    def chance(content):
        content["quality"]["matched"]["chance"]["ndcg_10"]["mean"] = CHANCE

    gains = {
        "uniform": ([0.1, 0.29, 0.3, 0.2], [0.1, 0.2, 0.3, 0.4]),
        "fisher-ld": ([0.3, 0.1, 0.4, 0.4], [0.1, 0.284, 0.29, 0.1]),
        "logits": ([0.9, 0.9, 0.9, 0.9], [0.2, 0.2, 0.2, 0.2]),
    }
    for method, seeds in gains.items():
        for seed, values in enumerate(seeds):
            scores = [CHANCE, *(None if step % 50 else CHANCE + values[step // 50 - 1] for step in range(1, 201))]
            frame = pl.DataFrame({"step": range(201), "loss": 0.5, "validation_ndcg_10": scores})
            write_csv(PATHS.training(f"small/{method}", seed) / "curve.csv", frame)
    return edited(PATHS.evaluate, chance).parts["movielens-100k"]


def test_the_first_validation_that_is_as_good_counts_and_every_seed_must_have_one(part):
    found = steps_to_target(part)
    assert found["small/uniform"] == (100 + 150) / 2
    assert found["small/fisher-ld"] == (50 + 150) / 2
    assert found["small/logits"] is None  # one seed never has it


def test_without_uniform_layers_there_is_no_target(part):
    alone = given(FEWER | {"run": {**FEWER["run"], "methods": ["none", "fisher-ld"]}}).run
    assert steps_to_target(Results(alone).parts["movielens-100k"]) == {}


def test_the_claim_of_faster_convergence_is_judged_by_it(part):
    claim = next(claim for claim in paper()["claims"] if claim.get("measure") == "sooner")
    found = judge(claim, Results(given(FEWER).run))
    assert (found.paper, found.ours, found.verdict) == ("2.1x", "1.2x", "not reproduced")
    assert found.reason.startswith("100 steps in place of 125")
