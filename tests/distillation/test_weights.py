import numpy as np
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.weights import STRATEGIES, depth_bias, fisher_weights, ordered

TRACE = np.array([4.0, 1.0, 3.0, 2.0])


def weights(strategy, beta=0.3, delta=1.0, trace=TRACE):
    return STRATEGIES[strategy](trace, beta, delta)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("beta", "delta"), [(0, 1), (0.3, 1), (2, 3)])
def test_every_strategy_has_the_same_total(strategy, beta, delta):
    result = weights(strategy, beta, delta)
    assert result.shape == (4,)
    assert result.sum() == pytest.approx(1, abs=1e-12)
    assert (result > 0).all()


def test_every_method_with_layers_names_a_strategy():
    named = {method.layers.strategy for method in METHODS.values() if method.layers}
    assert named == set(STRATEGIES)  # none is left that no method takes


def test_strategies_by_hand():
    assert weights("uniform") == pytest.approx([0.25] * 4)
    assert weights("linear") == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert weights("exponential")[1:] / weights("exponential")[:-1] == pytest.approx([np.exp(0.25)] * 3)
    assert weights("fisher", beta=0) == pytest.approx([0.4, 0.1, 0.3, 0.2])


@pytest.mark.parametrize("strategy", ["uniform", "linear", "exponential"])
def test_only_fisher_looks_at_the_traces(strategy):
    assert (weights(strategy) == weights(strategy, beta=2.0, delta=3.0, trace=TRACE[::-1] ** 2)).all()


def test_depth_bias_by_hand():
    assert depth_bias(4, 0.4, 2) == pytest.approx([1.1**2, 1.2**2, 1.3**2, 1.4**2])
    raised = np.array([4 * 1.1, 1 * 1.2, 3 * 1.3, 2 * 1.4])
    assert fisher_weights(TRACE, 0.4, 1) == pytest.approx(raised / raised.sum())
    assert fisher_weights(1000 * TRACE, 0.4, 1) == pytest.approx(raised / raised.sum())


@pytest.mark.parametrize("order", ["shuffled", "reversed"])
def test_controls_hold_the_fisher_weights_in_another_order(order):
    fisher = weights("fisher", beta=1.5)
    result = ordered(fisher, order, seed=0)
    assert sorted(result) == sorted(fisher)
    assert (result != fisher).any()


def test_reversed_ends_with_the_first_layer_and_their_own_order_is_left():
    assert ordered(TRACE, "reversed", seed=0).tolist() == [2, 3, 1, 4]
    assert ordered(TRACE, "own", seed=0).tolist() == TRACE.tolist()


def test_the_shuffle_is_seeded_and_never_the_original_order():
    assert (ordered(TRACE, "shuffled", seed=3) == ordered(TRACE, "shuffled", seed=3)).all()
    assert len({tuple(ordered(TRACE, "shuffled", seed=s)) for s in range(20)}) > 5
    for seed in range(20):
        assert ordered(np.array([1.0, 2.0]), "shuffled", seed).tolist() == [2, 1]
    assert ordered(np.array([1.0]), "shuffled", 0).tolist() == [1]
    assert ordered(np.array([]), "shuffled", 0).shape == (0,)


@pytest.mark.parametrize("trace", [[1.0, np.nan], [1.0, -1.0], [0.0, 0.0]])
def test_what_is_no_trace_is_refused(trace):
    with pytest.raises(UserError, match="finite, none negative"):
        weights("fisher", trace=np.array(trace))
