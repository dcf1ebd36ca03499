"""Layer weights from Fisher traces (Eq. 5, 6), the strategies they are compared with, and their controls."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from fisher_ld.core.errors import UserError

if TYPE_CHECKING:
    from fisher_ld.fisher.profile import LayerTraces


def fisher_weights(trace: np.ndarray, beta: float, delta: float) -> np.ndarray:
    """w_l = tr(F_l) / sum tr(F) (Eq. 5) times (1 + beta l / L)^delta (Eq. 6), with sum 1: (L,) -> (L,)."""
    trace = np.asarray(trace, np.float64)
    if not np.isfinite(trace).all() or (trace < 0).any() or not trace.sum() > 0:
        raise UserError(f"Fisher traces must be finite, none negative and not all zero, got {trace.tolist()}")
    return _normalised(trace / trace.sum() * depth_bias(len(trace), beta, delta))


def attention_weights(divergence: np.ndarray) -> np.ndarray:
    """In proportion to the mean KL of the decision token's attention from uniform (Table III), the prompt's first token
    apart: (L,), with sum 1."""
    if not np.isfinite(divergence).all():
        raise UserError("attention was not taken with the Fisher traces: the teacher computes it in a way of its own")
    if not divergence.sum() > 0:
        raise UserError("attention is uniform in every layer of the teacher, so that no weight follows from it")
    return _normalised(divergence)


def depth_bias(layers: int, beta: float, delta: float) -> np.ndarray:
    """(1 + beta l / L)^delta for l = 1..L (Eq. 6)."""
    return (1 + beta * _depth(layers)) ** delta


Strategy = Callable[["LayerTraces", float, float], np.ndarray]  # traces, beta, delta -> weights (L,), with sum 1

# Of depth alone: they look at L and nothing else.
OF_DEPTH: Mapping[str, Strategy] = {
    "uniform": lambda traces, beta, delta: _normalised(np.ones(len(traces.trace))),
    "linear": lambda traces, beta, delta: _normalised(_depth(len(traces.trace))),
    # steeper than linear, as exp(l / L) is not
    "exponential": lambda traces, beta, delta: _normalised(np.exp(5 * _depth(len(traces.trace)))),
}
# Of a measure of the layers, by Eq. 5 and 6.
OF_FISHER: Mapping[str, Strategy] = {
    "fisher": lambda traces, beta, delta: fisher_weights(traces.trace, beta, delta),
    "per-parameter": lambda traces, beta, delta: fisher_weights(traces.per_parameter, beta, delta),
    "relative": lambda traces, beta, delta: fisher_weights(traces.state_fisher.value, beta, delta),
    "without-last": lambda traces, beta, delta: fisher_weights(np.append(traces.trace[:-1], 0), beta, delta),
}
STRATEGIES: Mapping[str, Strategy] = {
    **OF_DEPTH,
    "attention": lambda traces, beta, delta: attention_weights(traces.attention),
    **OF_FISHER,
}


def ordered(weights: np.ndarray, order: str, seed: int) -> np.ndarray:
    """The same weights (L,) in their own order, or in that of a control: `reversed` from the last layer to the first,
    `shuffled` in a random order of this seed, which of two or more is never the original."""
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
