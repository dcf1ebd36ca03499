import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.fisher import profile
from fisher_ld.fisher.profile import layer_traces, outside_the_layers, quarter_ratio, rank_stability, summary


def make_table(logits, labels, norms, normalisation_part=None, state="adapted"):
    """norms: (S, L); embedding and head get values that would show if they were mixed in."""
    norms = np.asarray(norms, float)
    part = np.zeros_like(norms) if normalisation_part is None else np.asarray(normalisation_part, float)
    rows = [
        {
            "state": state,
            "example": example,
            "label": labels[example],
            "logit": logits[example],
            "layer": layer,
            "gradient_norm": {0: 1e6, norms.shape[1] + 1: 1e7 + 1e6 * example}.get(layer) or norms[example, layer - 1],
            "normalisation_part": 0.0 if layer in (0, norms.shape[1] + 1) else part[example, layer - 1],
            "parameters": 10 * layer,
        }
        for example in range(len(norms))
        for layer in range(norms.shape[1] + 2)
    ]
    return pl.DataFrame(rows)


LOG3 = float(np.log(3))  # p = 3/4


def test_traces_by_hand():
    # p = 1/2 and 3/4; p(1 - p) = 1/4 and 3/16; (p - y)^2 = 1/4 and, with y = 1, 1/16
    table = make_table([0.0, LOG3], [0, 1], [[8, 16], [32, 0]], [[4, 16], [0, 0]])
    true, empirical = layer_traces(table, "true"), layer_traces(table, "empirical")

    assert true.samples == pytest.approx(np.array([[2, 4], [6, 0]]))
    assert true.trace == pytest.approx([4, 2])
    assert true.share == pytest.approx([2 / 3, 1 / 3])
    assert true.error == pytest.approx([2, 2])  # half the distance of two values
    assert true.per_parameter == pytest.approx([4 / 10, 2 / 20])
    assert true.normalisation_share == pytest.approx([(1 + 0) / 2 / 4, 1])
    assert empirical.samples == pytest.approx(np.array([[2, 4], [2, 0]]))
    assert empirical.share == pytest.approx([1 / 2, 1 / 2])


def test_embedding_and_head_stand_beside_the_layers():
    table = make_table([0.0, LOG3], [0, 1], [[8, 16], [32, 0]])
    true, empirical = outside_the_layers(table, "true"), outside_the_layers(table, "empirical")
    assert true["embedding"] == pytest.approx({"trace": 1e6 * (4 + 3) / 32, "standard_error": 1e6 * (4 - 3) / 32})
    assert true["head"]["trace"] == pytest.approx((1e7 * 4 + 1.1e7 * 3) / 32)
    assert empirical["head"]["trace"] == pytest.approx((1e7 * 4 + 1.1e7) / 32)


def test_the_error_of_a_share_is_that_of_repeated_sampling():
    rng = np.random.default_rng(0)
    draw = lambda: rng.gamma(2, [1, 2, 4], (100, 3))  # noqa: E731
    shares = np.array([(s := draw().mean(0)) / s.sum() for _ in range(2000)])
    estimates = [layer_traces(make_table([0.0] * 100, [0] * 100, draw()), "true").share_error for _ in range(20)]
    assert np.mean(estimates, 0) == pytest.approx(shares.std(0), rel=0.1)


def test_certain_answers_keep_their_precision():
    table = make_table([40.0, -40.0], [1, 0], [[1, 2], [3, 4]])
    assert (layer_traces(table, "true").trace > 0).all()
    assert (layer_traces(table, "empirical").trace > 0).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (make_table([0.0, 0.0], [0, 1], [[0, 0], [0, 0]]), "zero"),
        (make_table([0.0], [0], [[1, 2]]), "two examples"),
        (pl.concat([make_table([0.0], [0], [[1, 2]], state=s) for s in ("base", "adapted")]), "one state"),
    ],
)
def test_tables_without_a_trace_are_refused(table, message):
    with pytest.raises(UserError, match=message):
        layer_traces(table, "true")


def test_quarters():
    assert quarter_ratio(np.array([1.0, 3, 5, 7, 9, 11, 13, 15])) == (13 + 15) / (1 + 3)
    assert quarter_ratio(np.array([2.0, 3, 5])) == 5 / 2


def test_a_ranking_that_every_example_agrees_on_is_stable():
    table = make_table([0.0] * 20, [0] * 20, [[1, 2, 3, 4]] * 20)
    assert rank_stability(layer_traces(table, "true"), seed=0) == pytest.approx((1, 1))


def test_rank_stability_is_spearmans_correlation_over_resamples():
    norms = np.random.default_rng(1).exponential([1, 1.1, 1.2, 1.3, 1.4], (12, 5))
    traces = layer_traces(make_table([0.0] * 12, [0] * 12, norms), "true")
    rng, correlations = np.random.default_rng(5), []
    for _ in range(2000):
        chosen = rng.integers(0, 12, 12)
        correlations.append(spearmanr(traces.samples[chosen].mean(0), traces.trace).statistic)
    mean, low = rank_stability(traces, seed=0, resamples=2000)
    assert mean == pytest.approx(np.mean(correlations), abs=0.03)
    assert low == pytest.approx(np.quantile(correlations, 0.05), abs=0.1)
    assert low < mean < 1


def test_summary_and_rows_tell_both_states(tmp_path):
    rng = np.random.default_rng(0)
    tables = [
        make_table(rng.normal(size=9), [0, 0, 1] * 3, rng.exponential(size=(9, 8)), state=s)
        for s in ("adapted", "base")
    ]
    table = pl.concat(tables)
    result = summary(table, seed=0)
    write_json(tmp_path / "fisher.json", result)
    assert read_json(tmp_path / "fisher.json") == result
    assert list(result) == ["adapted", "base"]
    expected = layer_traces(tables[1], "empirical")
    found = result["base"]["empirical"]
    assert found["last_layer_share"] == pytest.approx(expected.share[-1])
    assert found["upper_lower_quarter_without_last"] == pytest.approx(
        expected.trace[6] / expected.trace[0]  # a quarter of 7 layers is one
    )
    assert found["outside"] == outside_the_layers(tables[1], "empirical")
    assert [row["layer"] for row in found["layers"]] == list(range(1, 9))
    assert [row["trace"] for row in found["layers"]] == pytest.approx(expected.trace)

    rows = profile.plot_rows(table)
    assert len(rows) == 2 * 2 * 8
    assert rows.filter(state="base", kind="empirical")["share"].to_list() == pytest.approx(expected.share)


def test_one_layer_has_no_profile():
    with pytest.raises(UserError, match="two layers"):
        summary(make_table([0.0, 1.0], [0, 1], [[1], [2]]), seed=0)
