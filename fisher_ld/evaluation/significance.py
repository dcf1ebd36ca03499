"""Means and paired differences over users and training seeds: intervals, tests, power, equivalence, Holm.

A table holds a value for each training seed and user, (S, n): value = mean + seed + user + residual, all three random.
Its mean varies with each of them (`estimate`). With one seed users alone are counted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import nctdtrinc

LEVEL = 0.05  # of tests; intervals cover 1 - LEVEL
POWER = 0.8
SEEDS_SWAPPED = 6  # fewer cannot give a p below LEVEL by their swaps alone: with S seeds none is below 2^(1-S)
BLOCK = 4_000_000  # draws at once, which bounds the memory


@dataclass(frozen=True)
class Estimate:
    """The means of tables (..., S, n), each entry of shape (...)."""

    mean: np.ndarray
    se: np.ndarray  # standard error
    df: np.ndarray  # degrees of freedom of the t quantiles
    seeds: np.ndarray  # the share of the variance of the mean that comes with the training seeds and the residual, 0
    # where S = 1
    residual: np.ndarray  # mean square of the residual over that of the users, at most 1, 0 where S = 1

    def half_width(self, level: float = LEVEL) -> np.ndarray:
        """Of the interval that covers 1 - `level`."""
        return stats.t.ppf(1 - level / 2, self.df) * self.se

    def interval(self) -> tuple[float, float]:
        """Of one table."""
        half = self.half_width()
        return float(self.mean - half), float(self.mean + half)

    def p(self) -> np.ndarray:
        """Two-sided, that the mean is 0: a t test. 1 where all values are 0."""
        t = np.divide(np.abs(self.mean), self.se, out=np.full_like(self.se, np.inf), where=self.se > 0)
        return np.where(self.mean == 0, 1.0, 2 * stats.t.sf(t, self.df))

    def detectable(self, level: float = LEVEL) -> np.ndarray:
        """The smallest true mean that a two-sided test at `level` shows with probability POWER (noncentral t)."""
        return nctdtrinc(self.df, 1 - POWER, stats.t.ppf(1 - level / 2, self.df)) * self.se

    def within(self, margin: float) -> np.ndarray:
        """Whether two one-sided t tests at LEVEL show that the mean is between -margin and margin (Schuirmann 1987)."""
        return np.abs(self.mean) + self.half_width(2 * LEVEL) < margin


def estimate(values: np.ndarray) -> Estimate:
    """Of tables (..., S, n), from two-way random effects:
    var(mean) = (max(MS_seed, MS_residual) + max(MS_user - MS_residual, 0)) / (n S); with S = 1 MS_user / n. Neither
    seeds nor users add less than nothing, so that the error is never below that of seed-averaged users alone.

    Its degrees of freedom are (S - 1) / share, at most n - 1; `share` is what seeds and residual contribute to the sum.
    Satterthwaite (1946) divides by the share's square. That lets too much through with few seeds, and far too much at
    the levels that Holm asks for: an MS_seed that is small by chance makes the error small and the degrees many at
    once. Simulated false verdicts in times of the level, which may be 5% or its 28th part, for components like those of
    this project's students: at most 1.3 at S = 3, 1.6 at S = 5, 1.1 at S = 10, and far less where seeds add little.
    They are more with two seeds, and with three where seeds add far more than all else. Raises ValueError below 2
    users."""
    seeds, n = values.shape[-2:]
    if n < 2:
        raise ValueError(f"expected at least 2 users, got {n}")
    by_seed, by_user = values.mean(-1), values.mean(-2)  # (..., S), (..., n)
    mean = by_seed.mean(-1)
    ms_user = seeds * by_user.var(-1, ddof=1)
    ms_seed = ms_residual = np.zeros_like(mean)
    if seeds > 1:
        residual = values - by_seed[..., None] - by_user[..., None, :] + mean[..., None, None]
        ms_seed = n * by_seed.var(-1, ddof=1)
        ms_residual = (residual**2).sum((-2, -1)) / ((seeds - 1) * (n - 1))
    ms_residual = np.minimum(ms_residual, ms_user)
    ms_seed = np.maximum(ms_seed, ms_residual)
    total = ms_seed + ms_user - ms_residual
    share = _ratio(ms_seed, total)
    df = np.minimum(_ratio(np.full_like(share, seeds - 1), share, np.inf), n - 1)
    return Estimate(mean, np.sqrt(total / (n * seeds)), df, share, _ratio(ms_residual, ms_user))


def _ratio(a: np.ndarray, b: np.ndarray, otherwise: float = 0.0) -> np.ndarray:
    """a / b, and `otherwise` where b is 0."""
    return np.divide(a, b, out=np.full_like(np.asarray(a, float), otherwise), where=b > 0)


def randomisation_test(values: np.ndarray, draws: int, seed: int) -> float:
    """Two-sided p of a zero mean of paired differences (S, n) when the two sides are free to swap, seed by seed and
    user by user. Of the mean the seeds' share swaps with the seeds, the rest with the users: with S = 1 the sign of
    each user's difference is free, and where users add nothing that of each seed's. (count + 1) / (draws + 1), never
    0."""
    rng, found = np.random.default_rng(seed), estimate(values)
    mean, share = float(found.mean), float(found.seeds)
    by_seed = values.mean(1) - mean + share * mean  # (S,)
    by_user = np.sqrt(1 - found.residual) * (values.mean(0) - mean) + (1 - share) * mean  # (n,)
    as_far, step = 1, max(1, BLOCK // values.shape[1])
    for begin in range(0, draws, step):
        rows = min(step, draws - begin)
        of_seeds, of_users = (_signs(rng, rows, len(side)) @ side / len(side) for side in (by_seed, by_user))
        means = of_seeds + of_users  # (rows,)
        as_far += int((np.abs(means) >= abs(mean) * (1 - 1e-9)).sum())
    return as_far / (draws + 1)


def _signs(rng: np.random.Generator, rows: int, columns: int) -> np.ndarray:
    return 1.0 - 2 * rng.integers(0, 2, (rows, columns), dtype=np.int8)


@dataclass(frozen=True)
class Comparison:
    """a minus b over n paired users and S training seeds. p values are two-sided: they say nothing about the
    direction, which is the sign of `difference`."""

    n: int
    seeds: int
    mean_a: float
    mean_b: float
    difference: float
    low: float  # 95% interval of the difference, over users and training seeds
    high: float
    df: float
    p: float  # t test, of the same variance
    p_perm: float | None  # randomisation test; None with 2 to SEEDS_SWAPPED - 1 seeds, where `p` decides
    d: float | None  # Cohen's d for paired data, of seed-averaged users; None where all differences are the same number
    detectable: float  # the smallest true difference that 80% power would have shown, by this test alone
    detectable_holm: float  # and at LEVEL / m, where it is one of a family of m: the most that Holm asks
    equal: bool  # within the margin, by two one-sided t tests
    by_seed: list[float]  # the difference of each training seed


def compare(a: np.ndarray, b: np.ndarray, margin: float, permutations: int, seed: int, family: int = 1) -> Comparison:
    """a minus b, both (n,) or (S, n), user by user and seed by seed in the same order; a single run stands beside each
    of the other's S. `family`: how many comparisons are tested together. Raises ValueError where the pairs do not
    match, are fewer than 2 or not finite."""
    a, b = np.atleast_2d(a), np.atleast_2d(b)
    if a.shape[1] != b.shape[1] or a.shape[1] < 2:
        raise ValueError(f"expected the same 2 or more users on both sides, got {a.shape[1]} and {b.shape[1]}")
    if len(a) != len(b) and 1 not in (len(a), len(b)):
        raise ValueError(f"expected as many training seeds on both sides, or one on one, got {len(a)} and {len(b)}")
    runs = a - b  # (S, n)
    if not np.isfinite(runs).all():
        raise ValueError(f"expected finite values, got {np.sum(~np.isfinite(runs))} pairs that are not")
    found, difference = estimate(runs), runs.mean(0)
    low, high = found.interval()
    seeds, n = runs.shape
    return Comparison(
        n=n,
        seeds=seeds,
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        difference=float(found.mean),
        low=low,
        high=high,
        df=float(found.df),
        p=float(found.p()),
        p_perm=None if 1 < seeds < SEEDS_SWAPPED else randomisation_test(runs, permutations, seed),
        d=float(difference.mean() / difference.std(ddof=1)) if np.ptp(difference) > 0 else None,
        detectable=float(found.detectable()),
        detectable_holm=float(found.detectable(LEVEL / family)),
        equal=bool(found.within(margin)),
        by_seed=runs.mean(1).tolist(),
    )


def share_of(part: np.ndarray, whole: np.ndarray) -> dict[str, float]:
    """mean(part) / mean(whole), tables (S, n) and (1, n), with its 95% interval (`share`, `low`, `high`): the delta
    method on the same variance components, those of part - share * whole. For a `whole` far above 0."""
    share = part.mean() / whole.mean()
    half = float(estimate(part - share * whole).half_width() / whole.mean())
    return {"share": float(share), "low": float(share - half), "high": float(share + half)}


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p values adjusted for the family by Holm's step-down method (Holm 1979), in the given order."""
    p = np.asarray(p_values, float)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1)
    return adjusted


def verdict(comparison: Comparison, p: float) -> str:
    """What may be claimed of a against b, given the adjusted two-sided p: "shown above" or "shown below" (p < 0.05, by
    the sign of the difference), else "equal" within the margin, else "not shown"."""
    if p < LEVEL:
        return "shown above" if comparison.difference > 0 else "shown below"
    return "equal" if comparison.equal else "not shown"
