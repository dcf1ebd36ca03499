import numpy as np
import pytest
from scipy import stats

from fisher_ld.evaluation.significance import (
    LEVEL,
    Comparison,
    compare,
    estimate,
    holm,
    randomisation_test,
    share_of,
    verdict,
)

MARGIN, DRAWS = 0.02, (1000, 0)


def compared(a, b, **options):
    return compare(a, b, MARGIN, *DRAWS, **options)


def table(seeds=3, n=40, users=0.3, of_seed=0.05, residual=0.2, seed=0):
    rng = np.random.default_rng(seed)
    return users * rng.normal(size=n) + of_seed * rng.normal(size=(seeds, 1)) + residual * rng.normal(size=(seeds, n))


def slowly(values):
    """Mean squares of seeds, users and the residual, one cell after the other."""
    seeds, n = values.shape
    mean = values.mean()
    of_seeds = sum(n * (values[s].mean() - mean) ** 2 for s in range(seeds)) / (seeds - 1)
    of_users = sum(seeds * (values[:, u].mean() - mean) ** 2 for u in range(n)) / (n - 1)
    residual = sum(
        (values[s, u] - values[s].mean() - values[:, u].mean() + mean) ** 2 for s in range(seeds) for u in range(n)
    )
    return of_seeds, of_users, residual / ((seeds - 1) * (n - 1))


def test_variance_of_the_mean_from_mean_squares():
    values = table()
    of_seeds, of_users, residual = slowly(values)
    found = estimate(values)
    assert residual < of_users
    assert found.mean == pytest.approx(values.mean())
    assert found.se**2 == pytest.approx((of_seeds + of_users - residual) / values.size)
    share = of_seeds / (of_seeds + of_users - residual)
    assert (found.seeds, found.df) == pytest.approx((share, 2 / share))


def test_users_never_take_variance_away():
    values = np.array([[0.0, 1.0, 0.0, 1.0], [1.2, 0.0, 1.2, 0.0]])  # alike on average, unlike in each seed
    of_seeds, of_users, residual = slowly(values)
    assert of_users < residual
    found = estimate(values)
    assert found.se**2 == pytest.approx(of_seeds / 8)
    assert (found.seeds, found.df) == pytest.approx((1, 1))


def test_seeds_that_do_not_differ_leave_the_users_alone():
    users = np.random.default_rng(0).normal(size=30)
    found = estimate(np.stack([users] * 3))
    assert (found.se, found.df) == pytest.approx((users.std(ddof=1) / 30**0.5, 29))


def test_tables_side_by_side_are_those_alone():
    tables = np.stack([table(seed=seed) for seed in range(4)])
    together = estimate(tables)
    for number, values in enumerate(tables):
        alone = estimate(values)
        assert together.p()[number] == pytest.approx(float(alone.p()))
        assert together.half_width()[number] == pytest.approx(float(alone.half_width()))


def test_one_run_each_is_the_paired_t_test():
    a, b = table(1, 50), table(1, 50, seed=1)
    found, theirs = compared(a, b), stats.ttest_rel(a[0], b[0])
    assert (found.p, found.df, found.seeds) == pytest.approx((theirs.pvalue, 49, 1))
    span = theirs.confidence_interval()
    assert (found.low, found.high) == pytest.approx((span.low, span.high))


def test_compare_by_hand():
    a, b = np.array([0.5, 0.7, 0.9, 0.4]), np.array([0.4, 0.5, 0.6, 0.4])  # differences .1 .2 .3 0
    found = compared(a, b)
    assert (found.n, found.mean_a, found.mean_b) == (4, pytest.approx(0.625), pytest.approx(0.475))
    spread = np.sqrt(0.05 / 3)  # squares .05^2 + .05^2 + .15^2 + .15^2
    assert found.difference == pytest.approx(0.15)
    assert found.d == pytest.approx(0.15 / spread)
    assert found.high - found.difference == pytest.approx(spread / 2 * stats.t.ppf(0.975, 3))


def test_a_single_run_stands_beside_each_seed_of_the_other():
    many, one = table(3, 20), table(1, 20, seed=1)
    found, repeated = compared(many, one[0]), compared(many, np.repeat(one, 3, 0))
    assert (found.difference, found.low, found.high, found.p) == (
        repeated.difference, repeated.low, repeated.high, repeated.p,
    )  # fmt: skip
    assert found.by_seed == pytest.approx((many - one).mean(1))
    assert (found.seeds, found.n) == (3, 20)


def test_swapped_sides_mirror_the_comparison():
    a, b = table(6), table(6, seed=1)
    ab, ba = compared(a, b), compared(b, a)
    assert (ba.difference, ba.low, ba.high, ba.d) == pytest.approx((-ab.difference, -ab.high, -ab.low, -ab.d))
    assert (ba.p, ba.p_perm, ba.detectable) == pytest.approx((ab.p, ab.p_perm, ab.detectable))


def test_differences_without_spread():
    same = np.array([0.25, 0.5, 0.75])
    none = compared(same, same)
    assert (none.difference, none.low, none.high, none.p, none.p_perm, none.d) == (0, 0, 0, 1, 1, None)
    assert none.equal and none.detectable == 0
    above = compared(np.full(3, 0.75), np.full(3, 0.25))
    assert (above.difference, above.low, above.high, above.d, above.p) == (0.5, 0.5, 0.5, None, 0)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.ones(3), np.ones(4)),
        (np.ones(1), np.zeros(1)),
        (np.array([1, np.nan]), np.ones(2)),
        (np.ones((2, 5)), np.ones((3, 5))),
    ],
)
def test_bad_pairs_are_refused(a, b):
    with pytest.raises(ValueError, match="expected"):
        compared(a, b)


def test_the_interval_holds_what_another_training_run_would_change():
    rng = np.random.default_rng(0)
    users = rng.random(500)
    steady = users + 0.05 + 0.01 * rng.normal(size=(3, 500))
    lucky = users + np.array([[0.15], [0.0], [0.0]]) + 0.01 * rng.normal(size=(3, 500))
    alike, apart = compared(steady, users), compared(lucky, users)
    assert apart.difference == pytest.approx(alike.difference, abs=0.002)
    assert verdict(alike, alike.p) == "shown above"
    assert verdict(apart, apart.p) == "not shown"
    assert apart.high - apart.low == pytest.approx(2 * 4.303 * 0.05, rel=0.01)  # t with 2 degrees, error 0.15 / 3


def test_randomisation_test_on_a_case_that_can_be_counted():
    # of the 8 sign patterns of (1, 2, 3) only +++ and --- have a mean as far out
    assert randomisation_test(np.array([[1.0, 2, 3]]), 20_000, 0) == pytest.approx(2 / 8, abs=0.01)
    # (1, 2, -1): sums 4 2 2 2 0 0 ... ; |sum| >= 2 in 6 of 8
    assert randomisation_test(np.array([[1.0, 2, -1]]), 20_000, 0) == pytest.approx(6 / 8, abs=0.01)


def test_randomisation_of_seeds_alone_has_no_p_below_that_of_all_signs_alike():
    seeds = np.repeat(np.array([[1.0], [1.1], [0.9], [1.2], [0.8], [1.0]]), 5, 1)  # users add nothing
    assert randomisation_test(seeds, 20_000, 0) == pytest.approx(2**-5, rel=0.1)
    assert randomisation_test(seeds[:3], 20_000, 0) == pytest.approx(2**-2, rel=0.05)


def test_randomisation_of_users_who_differ_alike_in_all_seeds_is_that_of_users():
    users = np.random.default_rng(0).normal(0.05, 1, 50)
    expected = stats.ttest_1samp(users, 0).pvalue
    assert 0.1 < expected < 0.9
    assert randomisation_test(np.stack([users] * 6), 5000, 3) == pytest.approx(expected, abs=0.03)
    assert randomisation_test(users[None], 5000, 3) == pytest.approx(expected, abs=0.03)


def test_randomisation_test_is_never_zero_seeded_and_in_blocks(monkeypatch):
    sure = np.full((1, 30), 1.0) + np.linspace(0, 0.1, 30)
    assert randomisation_test(sure, 999, 0) == pytest.approx(1 / 1000)
    unsure = np.random.default_rng(0).normal(0.1, 1, (1, 50))
    whole = randomisation_test(unsure, 5000, 3)
    assert whole == randomisation_test(unsure, 5000, 3)
    monkeypatch.setattr("fisher_ld.evaluation.significance.BLOCK", 5000)
    assert randomisation_test(unsure, 5000, 3) == pytest.approx(whole, abs=0.03)


@pytest.mark.parametrize(("seeds", "printed"), [(1, True), (2, False), (5, False), (6, True)])
def test_randomisation_is_printed_for_one_run_and_from_six_seeds_on(seeds, printed):
    assert (compared(table(seeds), table(seeds, seed=1)).p_perm is not None) == printed


def test_the_detectable_difference_is_that_of_the_noncentral_t():
    found = estimate(table())
    shift, critical = float(found.detectable() / found.se), stats.t.ppf(0.975, found.df)
    assert stats.nct.sf(critical, found.df, shift) == pytest.approx(0.8, abs=1e-3)
    many = compared(table(1, 2000), table(1, 2000, seed=1))
    assert many.detectable == pytest.approx((1.960 + 0.842) * (many.high - many.low) / 2 / 1.960, rel=0.01)


def test_the_detectable_difference_of_one_in_a_family_is_larger():
    a, b = table(1, 2000), table(1, 2000, seed=1)
    alone, among = compared(a, b), compared(a, b, family=10)
    assert alone.detectable_holm == alone.detectable == among.detectable
    assert among.detectable_holm / among.detectable == pytest.approx((2.807 + 0.842) / (1.960 + 0.842), rel=0.01)


@pytest.mark.parametrize(
    ("shift", "equal"), [(0.0, True), (0.007, True), (-0.007, True), (0.015, False), (0.03, False)]
)
def test_equal_is_shown_by_the_90_percent_interval_within_the_margin(shift, equal):
    noise = np.random.default_rng(0).normal(size=400)
    noise = 0.1 * (noise - noise.mean()) / noise.std(ddof=1)  # error 0.005; 1.649 times that is 0.0082
    found = compared(noise + shift, np.zeros(400))
    assert found.equal == equal == (abs(shift) + 0.00824 < MARGIN)


def test_a_share_is_read_against_the_same_users():
    whole = np.random.default_rng(0).random((1, 50))
    exact = share_of(0.9 * whole, whole)  # the pairing leaves no spread
    assert (exact["share"], exact["low"], exact["high"]) == pytest.approx((0.9, 0.9, 0.9))
    rng = np.random.default_rng(1)
    part = 0.9 * whole + 0.1 * rng.normal(size=(1, 50))
    found = share_of(part, whole)
    rest = part[0] - found["share"] * whole[0]
    half = stats.t.ppf(0.975, 49) * rest.std(ddof=1) / 50**0.5 / whole.mean()
    assert (found["high"] - found["share"], found["share"] - found["low"]) == pytest.approx((half, half))


def test_holm_by_hand():
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone: .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert holm([0.03]) == pytest.approx([0.03])
    assert len(holm([])) == 0


@pytest.mark.parametrize(
    ("difference", "p", "equal", "expected"),
    [
        (0.2, 0.01, False, "shown above"),
        (-0.2, 0.01, False, "shown below"),  # a small p alone is no gain
        (0.005, 0.01, True, "shown above"),  # though it is small
        (0.2, LEVEL, False, "not shown"),
        (-0.001, 0.6, True, "equal"),
        (0.2, 0.96, False, "not shown"),
    ],
)
def test_verdict(difference, p, equal, expected):
    found = Comparison(100, 3, 0.5, 0.5, difference, -1, 1, 9, 0.001, None, 0.1, 0.02, 0.03, equal, [difference] * 3)
    assert verdict(found, p) == expected
