"""Layer weights from Fisher traces (Eq. 5, 6), the strategies they are compared with, and their controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from fisher_ld.core.errors import UserError


def fisher_weights(trace: np.ndarray, beta: float, delta: float) -> np.ndarray:
    """w_l = tr(F_l) / sum tr(F) (Eq. 5) times (1 + beta l / L)^delta (Eq. 6), with sum 1: (L,) -> (L,)."""
    trace = np.asarray(trace, np.float64)
    if not np.isfinite(trace).all() or (trace < 0).any() or not trace.sum() > 0:
        raise UserError(f"Fisher traces must be finite, none negative and not all zero, got {trace.tolist()}")
    return _normalised(trace / trace.sum() * depth_bias(len(trace), beta, delta))


def depth_bias(layers: int, beta: float, delta: float) -> np.ndarray:
    """(1 + beta l / L)^delta for l = 1..L (Eq. 6)."""
    return (1 + beta * _depth(layers)) ** delta


# name -> the weights (L,), with sum 1, from tr(F_l) (L,), beta and delta; all but fisher look at L alone
STRATEGIES: Mapping[str, Callable[[np.ndarray, float, float], np.ndarray]] = {
    "uniform": lambda trace, beta, delta: _normalised(np.ones(len(trace))),
    "linear": lambda trace, beta, delta: _normalised(_depth(len(trace))),
    "exponential": lambda trace, beta, delta: _normalised(np.exp(_depth(len(trace)))),
    "fisher": fisher_weights,
}


def ordered(weights: np.ndarray, order: str, seed: int) -> np.ndarray:
    """The same weights (L,) in their own order, or in that of a control: `reversed` from the last layer to the first,
    `shuffled` in a random order of this seed that is never the original."""
    if order == "reversed":
        return weights[::-1]
    return weights[_shuffle(len(weights), seed)] if order == "shuffled" else weights


def _depth(layers: int) -> np.ndarray:
    """l / L for l = 1..L."""
    return np.arange(1, layers + 1) / layers


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()


def _shuffle(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = rng.permutation(count)
    return order
