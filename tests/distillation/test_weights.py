import numpy as np
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.distillation.methods import METHODS
from fisher_ld.distillation.weights import OF_DEPTH, OF_FISHER, STRATEGIES, depth_bias, fisher_weights, ordered
from fisher_ld.fisher.profile import LayerTraces, Measure

TRACE = np.array([4.0, 1.0, 3.0, 2.0])
PARAMETERS, STATE_FISHER = np.array([4, 1, 3, 1]), np.array([5.0, 2.0, 2.0, 1.0])


def weights(strategy, beta=0.3, delta=1.0, trace=TRACE, attention=STATE_FISHER):
    measures = {"relative": Measure(np.ones((1, 4))), "state_fisher": Measure(STATE_FISHER[None])}
    traces = LayerTraces(
        trace[None], parameters=PARAMETERS, normalisation_share=np.zeros(4), attention=attention, **measures
    )
    return STRATEGIES[strategy](traces, beta, delta)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("beta", "delta"), [(0, 1), (0.3, 1), (2, 3)])
def test_every_strategy_has_the_same_total(strategy, beta, delta):
    result = weights(strategy, beta, delta)
    assert result.shape == (4,)
    assert result.sum() == pytest.approx(1, abs=1e-12)
    assert (result[:-1] > 0).all() and (result[-1] > 0) == (strategy != "without-last")


def test_every_method_with_layers_names_a_strategy():
    assert {method.layers.strategy for method in METHODS.values() if method.layers} <= set(STRATEGIES)


def test_strategies_by_hand():
    assert weights("uniform") == pytest.approx([0.25] * 4)
    assert weights("linear") == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert weights("exponential")[1:] / weights("exponential")[:-1] == pytest.approx([np.exp(5 / 4)] * 3)
    assert weights("attention") == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert weights("fisher", beta=0) == pytest.approx([0.4, 0.1, 0.3, 0.2])
    assert weights("per-parameter", beta=0) == pytest.approx([0.2, 0.2, 0.2, 0.4])
    assert weights("relative", beta=0) == pytest.approx([0.5, 0.2, 0.2, 0.1])
    assert weights("without-last", beta=0) == pytest.approx([4 / 8, 1 / 8, 3 / 8, 0])


def test_exponential_weights_leave_a_first_quarter_less_than_linear_ones():
    assert weights("exponential")[0] < weights("linear")[0] / 2


@pytest.mark.parametrize("strategy", OF_DEPTH)
def test_those_of_depth_do_not_look_at_the_traces(strategy):
    assert (weights(strategy) == weights(strategy, beta=2.0, delta=3.0, trace=TRACE[::-1] ** 2)).all()


@pytest.mark.parametrize("strategy", OF_FISHER)
def test_the_depth_bias_applies_to_every_fisher(strategy):
    raised = weights(strategy, beta=0) * depth_bias(4, 2.0, 3.0)
    assert weights(strategy, beta=2.0, delta=3.0) == pytest.approx(raised / raised.sum())


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


def test_attention_that_was_not_taken_is_refused():
    with pytest.raises(UserError, match="attention was not taken"):
        weights("attention", attention=np.full(4, np.nan))


@pytest.mark.parametrize("trace", [[1.0, np.nan], [1.0, -1.0], [0.0, 0.0]])
def test_what_is_no_trace_is_refused(trace):
    with pytest.raises(UserError, match="finite, none negative"):
        weights("fisher", trace=np.array(trace))
