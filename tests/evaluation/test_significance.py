import numpy as np
import pytest
from scipy import stats

from fisher_ld.evaluation.significance import (
    Comparison,
    bootstrap_means,
    compare,
    holm,
    interval,
    randomisation_test,
    verdict,
)


def test_randomisation_test_on_a_tiny_exact_case():
    # of the 8 sign patterns of (1, 2, 3) only +++ and --- have a mean as far out: p = 2 / 8
    assert randomisation_test(np.array([1.0, 2, 3]), 1000, 0) == pytest.approx(0.25)
    # (1, 2, -1): sums 4 2 2 2 0 0 ... ; |sum| >= 2 in 6 of 8
    assert randomisation_test(np.array([1.0, 2, -1]), 1000, 0) == pytest.approx(0.75)
    assert randomisation_test(np.zeros(5), 1000, 0) == 1


def test_randomisation_test_is_never_zero_and_is_seeded():
    sure = np.full(30, 1.0) + np.linspace(0, 0.1, 30)
    assert randomisation_test(sure, 999, 0) == pytest.approx(2 / 1000)
    unsure = np.random.default_rng(0).normal(0.1, 1, 50)
    assert randomisation_test(unsure, 500, 3) == randomisation_test(unsure, 500, 3)
    assert randomisation_test(unsure, 5000, 3) == pytest.approx(stats.ttest_1samp(unsure, 0).pvalue, abs=0.03)


def test_compare_by_hand():
    a, b = np.array([0.5, 0.7, 0.9, 0.4]), np.array([0.4, 0.5, 0.6, 0.4])  # differences .1 .2 .3 0
    found = compare(a, b, samples=4000, permutations=100, seed=0)
    assert (found.n, found.mean_a, found.mean_b) == (4, pytest.approx(0.625), pytest.approx(0.475))
    spread = np.sqrt(0.05 / 3)  # squares .05^2 + .05^2 + .15^2 + .15^2
    assert found.difference == pytest.approx(0.15)
    assert found.d == pytest.approx(0.15 / spread)
    assert found.p_t == pytest.approx(2 * stats.t.sf(0.15 / spread * 2, 3))
    assert found.p_perm == pytest.approx(4 / 16)  # the zero's sign is free
    assert 0 < found.low < 0.15 < found.high < 0.3


def test_swapped_sides_mirror_the_comparison():
    rng = np.random.default_rng(2)
    a, b = rng.random(40), rng.random(40)
    ab, ba = compare(a, b, 500, 500, 1), compare(b, a, 500, 500, 1)
    assert (ba.difference, ba.low, ba.high, ba.d) == pytest.approx((-ab.difference, -ab.high, -ab.low, -ab.d))
    assert (ba.p_t, ba.p_perm) == pytest.approx((ab.p_t, ab.p_perm))


def test_differences_without_spread():
    same = np.array([0.25, 0.5, 0.75])
    assert compare(same, same, 100, 100, 0) == Comparison(3, 0.5, 0.5, 0, 0, 0, p_t=1, p_perm=1, d=None, by_seed=[0])
    above = compare(np.full(3, 0.75), np.full(3, 0.25), 100, 100, 0)
    assert (above.difference, above.low, above.high, above.d, above.p_t) == (0.5, 0.5, 0.5, None, 0)


@pytest.mark.parametrize(
    ("a", "b"),
    [(np.ones(3), np.ones(4)), (np.ones(1), np.zeros(1)), (np.array([1, np.nan]), np.ones(2))],
)
def test_bad_pairs_are_refused(a, b):
    with pytest.raises(ValueError, match="expected"):
        compare(a, b, 10, 10, 0)


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(300):
        low, high = interval(bootstrap_means(rng.normal(1, 2, 80), 400, seed))
        hits += low < 1 < high
    assert 0.91 <= hits / 300 <= 0.98


def test_bootstrap_agrees_with_scipy_and_is_paired():
    values = np.random.default_rng(0).random((60, 2))
    draws = bootstrap_means(values, 20000, 5)
    theirs = stats.bootstrap((values[:, 0],), np.mean, n_resamples=20000, method="percentile", rng=1)
    assert interval(draws[:, 0]) == pytest.approx(tuple(theirs.confidence_interval), abs=2e-3)
    np.testing.assert_allclose(bootstrap_means(values[:, 1], 20000, 5), draws[:, 1], atol=1e-12)


def test_bootstrap_in_several_blocks(monkeypatch):
    values = np.arange(2_000_000.0) % 7  # two resamples a block
    means = bootstrap_means(values, 3, 0)
    assert means.shape == (3,)
    assert len(set(means)) == 3
    assert means == pytest.approx(values.mean(), abs=0.01)


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone: .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


def comparison(low, high):
    return Comparison(100, 0.5, 0.5, (low + high) / 2, low, high, 0.001, 0.001, 0.1, [0.1])


@pytest.mark.parametrize(
    ("low", "high", "p", "expected"),
    [
        (0.1, 0.3, 0.01, "shown above"),
        (-0.3, -0.1, 0.01, "shown below"),  # a small p alone is no gain
        (-0.1, 0.3, 0.01, "not shown"),
        (0.1, 0.3, 0.05, "not shown"),
        (0.1, 0.3, 0.96, "not shown"),  # nor is a large one
        (0.0, 0.3, 0.01, "not shown"),
    ],
)
def test_verdict(low, high, p, expected):
    assert verdict(comparison(low, high), p) == expected


def test_the_interval_holds_what_another_training_run_would_change():
    rng = np.random.default_rng(0)
    users = rng.random(500)
    steady = users + 0.05 + 0.01 * rng.normal(size=(3, 500))
    lucky = users + np.array([[0.15], [0.0], [0.0]]) + 0.01 * rng.normal(size=(3, 500))
    alike, apart = (compare(runs, users, 2000, 500, 0) for runs in (steady, lucky))
    assert apart.difference == pytest.approx(alike.difference, abs=0.002)
    assert apart.by_seed == pytest.approx([0.15, 0, 0], abs=0.002)
    assert verdict(alike, alike.p_perm) == "shown above"
    assert apart.low < 0.002 and apart.high > 0.09  # seed 0 is drawn never, or at least twice
    one = compare(steady[0], users, 2000, 500, 0)
    assert (one.low, one.high) == pytest.approx(interval(bootstrap_means(steady[0] - users, 2000, 0)))


def test_verdict_follows_the_better_side():
    rng = np.random.default_rng(0)
    weak = rng.random(200)
    strong = weak + 0.05 + 0.1 * rng.random(200)
    up, down = compare(strong, weak, 500, 500, 0), compare(weak, strong, 500, 500, 0)
    assert verdict(up, up.p_perm) == "shown above"
    assert verdict(down, down.p_perm) == "shown below"
