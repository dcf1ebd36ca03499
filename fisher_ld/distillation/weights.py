"""Layer weights from Fisher traces (Eq. 5, 6), and the strategies they are compared with."""

from __future__ import annotations

import numpy as np

from fisher_ld.core.errors import UserError

STRATEGIES = ("none", "uniform", "linear", "exponential", "fisher", "fisher-shuffled", "fisher-reversed")


def fisher_weights(trace: np.ndarray, beta: float, delta: float) -> np.ndarray:
    """w_l = tr(F_l) / sum tr(F) (Eq. 5) times (1 + beta l / L)^delta (Eq. 6), with sum 1: (L,) -> (L,)."""
    trace = np.asarray(trace, np.float64)
    if not np.isfinite(trace).all() or (trace < 0).any() or not trace.sum() > 0:
        raise UserError(f"Fisher traces must be finite, none negative and not all zero, got {trace.tolist()}")
    return _normalised(trace / trace.sum() * depth_bias(len(trace), beta, delta))


def depth_bias(layers: int, beta: float, delta: float) -> np.ndarray:
    """(1 + beta l / L)^delta for l = 1..L (Eq. 6)."""
    return (1 + beta * np.arange(1, layers + 1) / layers) ** delta


def layer_weights(strategy: str, trace: np.ndarray, beta: float, delta: float, seed: int) -> np.ndarray:
    """The weights (L,) of one strategy, with sum 1; none of them for `none`.

    linear grows as l, exponential as exp(l / L); both look at the number of layers only. The two controls hold exactly
    the Fisher weights, depth bias included, in another order: `fisher-shuffled` in a random one that is never the
    original, `fisher-reversed` from the last layer to the first.
    """
    count = len(trace)
    depth = np.arange(1, count + 1) / count  # (L,)
    match strategy:
        case "none":
            return np.zeros(0)
        case "uniform":
            return _normalised(np.ones(count))
        case "linear":
            return _normalised(depth)
        case "exponential":
            return _normalised(np.exp(depth))
        case "fisher":
            return fisher_weights(trace, beta, delta)
        case "fisher-shuffled":
            return fisher_weights(trace, beta, delta)[_shuffle(count, seed)]
        case "fisher-reversed":
            return fisher_weights(trace, beta, delta)[::-1]
    raise UserError(f"unknown weighting {strategy!r}; expected one of {', '.join(STRATEGIES)}")


def _normalised(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()


def _shuffle(count: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    order = rng.permutation(count)
    while count > 1 and (order == np.arange(count)).all():
        order = rng.permutation(count)
    return order
