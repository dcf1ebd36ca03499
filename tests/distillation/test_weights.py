import numpy as np
import pytest

from fisher_ld.core.errors import UserError
from fisher_ld.distillation.weights import STRATEGIES, depth_bias, fisher_weights, layer_weights

TRACE = np.array([4.0, 1.0, 3.0, 2.0])


def weights(strategy, beta=0.3, delta=1.0, seed=0, trace=TRACE):
    return layer_weights(strategy, trace, beta, delta, seed)


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "none"])
@pytest.mark.parametrize(("beta", "delta"), [(0, 1), (0.3, 1), (2, 3)])
def test_every_strategy_has_the_same_total(strategy, beta, delta):
    result = weights(strategy, beta, delta)
    assert result.shape == (4,)
    assert result.sum() == pytest.approx(1, abs=1e-12)
    assert (result > 0).all()


def test_strategies_by_hand():
    assert weights("none").shape == (0,)
    assert weights("uniform") == pytest.approx([0.25] * 4)
    assert weights("linear") == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert weights("exponential")[1:] / weights("exponential")[:-1] == pytest.approx([np.exp(0.25)] * 3)
    assert weights("fisher", beta=0) == pytest.approx([0.4, 0.1, 0.3, 0.2])


def test_depth_bias_by_hand():
    assert depth_bias(4, 0.4, 2) == pytest.approx([1.1**2, 1.2**2, 1.3**2, 1.4**2])
    raised = np.array([4 * 1.1, 1 * 1.2, 3 * 1.3, 2 * 1.4])
    assert fisher_weights(TRACE, 0.4, 1) == pytest.approx(raised / raised.sum())
    assert fisher_weights(1000 * TRACE, 0.4, 1) == pytest.approx(raised / raised.sum())


@pytest.mark.parametrize("strategy", ["fisher-shuffled", "fisher-reversed"])
def test_controls_hold_the_fisher_weights_in_another_order(strategy):
    result, fisher = weights(strategy, beta=1.5), weights("fisher", beta=1.5)
    assert sorted(result) == sorted(fisher)
    assert (result != fisher).any()


def test_reversed_ends_with_the_first_layer():
    assert weights("fisher-reversed").tolist() == weights("fisher").tolist()[::-1]


def test_the_shuffle_is_seeded_and_never_the_original_order():
    assert (weights("fisher-shuffled", seed=3) == weights("fisher-shuffled", seed=3)).all()
    assert len({tuple(weights("fisher-shuffled", seed=s)) for s in range(20)}) > 5
    two = np.array([1.0, 2.0])
    for seed in range(20):
        swapped = weights("fisher-shuffled", seed=seed, trace=two)
        assert swapped.tolist() == weights("fisher", trace=two).tolist()[::-1]


def test_what_is_no_weighting_or_no_trace_is_refused():
    with pytest.raises(UserError, match="'fischer'; expected one of none, uniform"):
        weights("fischer")
    for trace in ([1.0, np.nan], [1.0, -1.0], [0.0, 0.0]):
        with pytest.raises(UserError, match="finite, none negative"):
            weights("fisher", trace=np.array(trace))
