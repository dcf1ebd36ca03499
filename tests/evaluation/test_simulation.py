"""Intervals, tests, power and equivalence on score tables whose truth is known: 2,000 of each kind, no training.

A table's components are standard deviations: of users, of training seeds, of the residual (users differ from seed to
seed). Rates over 2,000 tables have a standard error of 0.5%.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np
import pytest

from fisher_ld.evaluation.significance import LEVEL, Estimate, estimate, randomisation_test, share_of

TABLES = 2000
PARTS = 10
# seeds of training, users, and the components: of models far apart, of two distilled students, without seeds' part, of
# a student whose seeds do not all learn
KINDS = [
    (S, n, *components)
    for S, n in ((3, 500), (5, 900), (10, 200))
    for components in (
        (0.35, 0.01, 0.2),
        (0.35, 0.02, 0.1),
        (0.1, 0.02, 0.2),
        (0.1, 0.01, 0.3),
        (0.2, 0.0, 0.2),
        (0.18, 0.06, 0.3),
    )
]
each_kind = pytest.mark.parametrize(("seeds", "n", "users", "of_seed", "residual"), KINDS)


def tables(seeds, n, users, of_seed, residual, mean=0.0) -> Iterator[np.ndarray]:
    """TABLES in PARTS, each (TABLES / PARTS, S, n)."""
    rng = np.random.default_rng([seeds, n, *(round(1000 * sd) for sd in (users, of_seed, residual))])
    for _ in range(PARTS):
        count = TABLES // PARTS
        by_user, by_seed = users * rng.normal(size=(count, 1, n)), of_seed * rng.normal(size=(count, seeds, 1))
        yield mean + by_user + by_seed + residual * rng.normal(size=(count, seeds, n))


@cache
def estimates(*kind) -> Estimate:
    """Of tables with mean 0; at another mean it alone is other."""
    found = [estimate(part) for part in tables(*kind)]
    return Estimate(*(np.concatenate([getattr(e, field) for e in found]) for field in vars(found[0])))


def at(mean, found) -> Estimate:
    return Estimate(found.mean + mean, found.se, found.df, found.seeds, found.residual)


def rate(marks):
    return 100 * float(np.mean(marks))


@each_kind
def test_intervals_cover_the_truth(seeds, n, users, of_seed, residual):
    found = at(0.3, estimates(seeds, n, users, of_seed, residual))
    assert rate(np.abs(found.mean - 0.3) <= found.half_width()) >= 92


@pytest.mark.parametrize("family", [1, 8, 28])
@pytest.mark.parametrize("seeds", [3, 5, 10])
def test_false_verdicts_are_no_more_than_the_level_says(seeds, family):
    """Over all kinds, 12,000 tables, at the level that Holm asks of the first of a family."""
    found = np.mean([rate(estimates(*kind).p() < LEVEL / family) for kind in KINDS if kind[0] == seeds])
    assert found <= 1.2 * 100 * LEVEL / family
    assert seeds == 3 or family == 28 or found >= 0.4 * 100 * LEVEL / family


def test_the_error_is_never_below_that_of_seed_averaged_users():
    """Nor is it where the seeds of a table happen to lie close together."""
    part = next(tables(3, 500, 0.1, 0.0, 0.2))
    close = part - part.mean(-1, keepdims=True) + part.mean((-1, -2), keepdims=True)  # all seeds have one mean
    for values in (part, close):
        alone = values.mean(-2).std(-1, ddof=1) / np.sqrt(values.shape[-1])
        assert (estimate(values).se >= alone * (1 - 1e-9)).all()


@each_kind
def test_of_differences_that_are_told_as_detectable_about_80_percent_are_shown(seeds, n, users, of_seed, residual):
    found = estimates(seeds, n, users, of_seed, residual)
    moved = at(float(found.detectable().mean()), found)
    assert 70 <= rate((moved.p() < LEVEL) & (moved.mean > 0)) <= 90


@each_kind
def test_models_that_differ_by_the_margin_are_seldom_called_equal(seeds, n, users, of_seed, residual):
    found = estimates(seeds, n, users, of_seed, residual)
    margin = 8 * float(np.median(found.se))
    assert rate(at(margin, found).within(margin)) <= 6.5
    assert rate(found.within(margin)) >= 80  # and equal ones often


def test_seeds_that_are_not_counted_give_false_verdicts():
    kind = (3, 500, 0.1, 0.02, 0.2)
    averaged = [estimate(part.mean(-2, keepdims=True)).p() < LEVEL for part in tables(*kind)]
    assert rate(averaged) > 20 > 6.5 >= rate(estimates(*kind).p() < LEVEL)


def test_satterthwaites_degrees_of_freedom_let_more_through_with_three_seeds():
    found = estimates(3, 500, 0.1, 0.02, 0.2)
    squared = Estimate(found.mean, found.se, np.minimum(2 / found.seeds**2, 499), found.seeds, found.residual)
    assert rate(squared.p() < LEVEL) > 1 + rate(found.p() < LEVEL)


def test_one_seed_is_a_paired_t_test_over_users():
    found = estimates(1, 300, 0.3, 0.0, 0.2)
    assert (found.df == 299).all()
    assert 4 <= rate(found.p() < LEVEL) <= 6.5


@pytest.mark.parametrize("kind", [(6, 200, 0.35, 0.02, 0.1), (6, 200, 0.1, 0.02, 0.2), (10, 300, 0.0, 0.02, 0.1)])
def test_swapping_seeds_and_users_keeps_the_level_roughly(kind):
    part = np.concatenate(list(tables(*kind)))[:400]
    found = [randomisation_test(table, 400, 0) for table in part]
    assert 2 <= rate(np.array(found) < LEVEL) <= 9
    apart = [randomisation_test(table, 400, 0) for table in part[:50] + 0.15]
    assert rate(np.array(apart) < LEVEL) >= 80


@pytest.mark.parametrize("seeds", [3, 5])
def test_the_retained_share_is_covered(seeds):
    """Scores between 0 and 1, as NDCG: the student has 0.9 of what the teacher has."""
    rng, covered = np.random.default_rng(0), []
    for _ in range(TABLES):
        teacher = rng.beta(1, 1.2, (1, 300))
        seed = 0.01 * rng.normal(size=(seeds, 1))
        student = 0.9 * teacher + 0.15 * rng.normal(size=(1, 300)) + seed + 0.2 * rng.normal(size=(seeds, 300))
        found = share_of(student, teacher)
        covered.append(found["low"] <= 0.9 <= found["high"])
    assert 92 <= rate(covered) <= 99
