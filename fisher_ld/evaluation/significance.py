"""Paired comparisons over the same users: difference, interval, two tests, effect size, Holm."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.05  # of tests; intervals cover 1 - LEVEL


@dataclass(frozen=True)
class Comparison:
    """a minus b over n paired users, each averaged over the training seeds. p values are two-sided: they say nothing
    about the direction, which is the sign of `difference`."""

    n: int
    mean_a: float
    mean_b: float
    difference: float
    low: float  # bootstrap 95% interval of the difference, over users and training seeds
    high: float
    p_t: float  # paired t-test
    p_perm: float  # paired randomisation test
    d: float | None  # Cohen's d for paired data; None where all differences are the same number
    by_seed: list[float]  # the difference of each training seed


def bootstrap_means(values: np.ndarray, samples: int, seed: int) -> np.ndarray:
    """Means over resampled users: (n,) or (n, m) -> (samples,) or (samples, m). The same n and seed give the same
    resamples, so that ratios of two calls are paired."""
    rng = np.random.default_rng(seed)
    n = len(values)
    means = []
    step = max(1, 4_000_000 // n)  # bounds the memory
    for begin in range(0, samples, step):
        rows = min(step, samples - begin)
        drawn = rng.integers(0, n, (rows, n)) + n * np.arange(rows)[:, None]
        times = np.bincount(drawn.ravel(), minlength=rows * n).reshape(rows, n)  # how often each user was drawn
        means.append(times.astype(float) @ values / n)
    return np.concatenate(means)


def over_seeds(draws: np.ndarray, seed: int) -> np.ndarray:
    """Bootstrap draws of each training seed (samples, S) -> (samples,): means over resampled seeds, so that an interval
    holds what another training run would change."""
    chosen = np.random.default_rng((seed, 1)).integers(0, draws.shape[1], draws.shape)
    return np.take_along_axis(draws, chosen, 1).mean(1)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """Percentile interval of bootstrap draws (samples,)."""
    low, high = np.quantile(draws, [LEVEL / 2, 1 - LEVEL / 2])
    return float(low), float(high)


def randomisation_test(difference: np.ndarray, permutations: int, seed: int) -> float:
    """Two-sided p of a zero mean when the sign of each paired difference is free: all 2^n signs where these are no
    more than `permutations`, else so many seeded draws (then twice the smaller side's (count + 1) / (permutations + 1),
    never 0)."""
    result = stats.permutation_test(
        (difference,),
        lambda x, axis: x.mean(axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=permutations,
        batch=max(1, 1_000_000 // len(difference)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def compare(a: np.ndarray, b: np.ndarray, samples: int, permutations: int, seed: int) -> Comparison:
    """a minus b, both (n,) or (S, n) for S training seeds, user by user in the same order. `samples`: bootstrap
    resamples. Raises ValueError where the pairs do not match, are fewer than 2 or not finite."""
    if a.shape[-1] != b.shape[-1] or a.shape[-1] < 2:
        raise ValueError(f"expected the same 2 or more users on both sides, got shapes {a.shape} and {b.shape}")
    runs = np.atleast_2d(a) - np.atleast_2d(b)  # (S, n)
    a, b, difference = np.atleast_2d(a).mean(0), np.atleast_2d(b).mean(0), runs.mean(0)  # (n,)
    if not np.isfinite(difference).all():
        raise ValueError(f"expected finite values, got {np.sum(~np.isfinite(difference))} pairs that are not")
    mean = float(difference.mean())
    if np.ptp(difference) == 0:  # the t statistic is 0/0, or infinite
        p_t, d = (1.0 if mean == 0 else 0.0), None
    else:
        p_t = float(stats.ttest_rel(a, b).pvalue)
        d = mean / float(difference.std(ddof=1))
    low, high = interval(over_seeds(bootstrap_means(runs.T, samples, seed), seed))
    p_perm = randomisation_test(difference, permutations, seed)
    return Comparison(len(a), float(a.mean()), float(b.mean()), mean, low, high, p_t, p_perm, d, runs.mean(1).tolist())


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values adjusted for the family by Holm's step-down method (Holm 1979), in the given order."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def verdict(comparison: Comparison, p: float) -> str:
    """What may be claimed of a against b: "shown above", "shown below" or "not shown". `p`: adjusted, two-sided. A
    difference is shown where p < 0.05 and the interval lies on one side of 0; which side is the sign of the
    difference alone."""
    if p < LEVEL and comparison.low > 0:
        return "shown above"
    if p < LEVEL and comparison.high < 0:
        return "shown below"
    return "not shown"
