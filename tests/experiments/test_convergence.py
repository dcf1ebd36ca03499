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


RUN = given(FEWER | {"run": {**FEWER["run"], "seeds": [0, 1, 2]}}).run
UNIFORM = ([0.1, 0.3, 0.3, 0.3], [0.1, 0.2, 0.25, 0.4], [0.1, 0.2, 0.4, 0.2])  # gains over chance at each validation
SOONER = ([0.3, 0.1, 0.4, 0.4], [0.1, 0.39, 0.29, 0.1], [0.4, 0.2, 0.1, 0.1])
LATER = ([0.1, 0.29, 0.1, 0.1], [0.1, 0.1, 0.1, 0.4], [0.1, 0.1, 0.4, 0.4])


@pytest.fixture
def curves(edited):
    """curves(every, METHOD=gains of each seed ..): a run that was validated so often."""

    def chance(content):
        content["quality"]["matched"]["chance"]["ndcg_10"]["mean"] = CHANCE

    def write(every=50, run=RUN, **methods):
        last = every * 4
        for method, seeds in methods.items():
            for seed, gains in enumerate(seeds):
                at = {every * i: CHANCE + gain for i, gain in enumerate(gains, 1) if gain is not None} | {0: 0.9}
                scores = [at.get(step) for step in range(last + 1)]
                frame = pl.DataFrame({"step": range(last + 1), "loss": 0.5, "validation_ndcg_10": scores})
                write_csv(PATHS.training(f"small/{method.replace('_', '-')}", seed) / "curve.csv", frame)
        edited(PATHS.evaluate, chance)
        for method in run.methods:  # the others have a curve, of which nothing is asked
            for seed in run.seeds:
                path = PATHS.training(f"small/{method}", seed) / "curve.csv"
                if not path.is_file():
                    write_csv(path, frame)
        return Results(run)

    return write


def sooner(results):
    return judge(next(claim for claim in paper()["claims"] if claim.get("measure") == "sooner"), results)


def test_the_first_validation_that_is_as_good_as_uniform_layers_become_on_average_counts(curves):
    results = curves(uniform=UNIFORM, fisher_ld=SOONER, logits=([0.9] * 4, [0.2] * 4, [0.38] * 4))
    found = steps_to_target(results.parts["movielens-100k"])
    assert found["small/uniform"] == [100, 200, 150]
    assert found["small/fisher-ld"] == [50, 100, 50]
    assert found["small/logits"] == [50, None, 50]  # the start is no validation of a training


def test_without_uniform_layers_or_their_gain_there_is_no_target(curves):
    results = curves(uniform=UNIFORM)
    alone = given(FEWER | {"run": {**FEWER["run"], "methods": ["none", "fisher-ld"]}}).run
    assert steps_to_target(Results(alone).parts["movielens-100k"]) == {}
    assert steps_to_target(results.parts["movielens-100k"])
    nothing = curves(uniform=[[0.3, 0.3, 0.3, -0.01]] * 3)
    assert steps_to_target(nothing.parts["movielens-100k"]) == {}


def test_the_claim_of_faster_convergence_needs_an_interval(curves):
    found = sooner(curves(uniform=UNIFORM, fisher_ld=SOONER))
    assert (found.paper, found.verdict) == ("2.1x", "not reproduced")
    assert found.ours == "2.3x (1.3x to 4.1x)"  # 2, 2 and 3 times
    fast = sooner(curves(uniform=[UNIFORM[1]] * 3, fisher_ld=[[0.4] * 4] * 3))
    assert (fast.ours, fast.verdict) == ("4.0x (4.0x to 4.0x)", "reproduced")
    slow = sooner(curves(uniform=UNIFORM, fisher_ld=LATER))
    assert (slow.ours, slow.verdict) == ("1.0x (1.0x to 1.0x)", "not reproduced")
    never = sooner(curves(uniform=UNIFORM, fisher_ld=(*SOONER[:2], [0.1] * 4)))
    assert (never.verdict, never.reason) == (
        "not reproduced",
        "in 1 of 3 seeds it does not get there in 200 steps",
    )


def test_the_claim_of_faster_convergence_is_not_judged_of_what_cannot_show_it(curves):
    few = sooner(curves(run=given(FEWER).run, uniform=UNIFORM[1:], fisher_ld=SOONER[:2]))
    assert (few.verdict, few.reason) == ("cannot be compared", "2 of the 3 training seeds that an interval needs")
    missed = sooner(curves(uniform=(*UNIFORM[:2], [0.1] * 4), fisher_ld=SOONER))
    assert (missed.verdict, missed.reason) == (
        "cannot be compared",
        "uniform layers do not get there themselves in 1 of 3 seeds",
    )
    coarse = sooner(curves(uniform=[[None, 0.3, None, 0.3]] * 3, fisher_ld=[[None, 0.3, None, 0.3]] * 3))
    assert coarse.reason == "validated after 100 of 200 steps at first, which is too late to see it"
