import numpy as np
import polars as pl
import pytest
from scipy.stats import spearmanr

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, write_json
from fisher_ld.fisher import profile
from fisher_ld.fisher.estimate import SCHEMA
from fisher_ld.fisher.profile import layer_traces, outside_the_layers, quarter_ratio, rank_stability, summary


def make_table(logits, labels, norms, normalisation_part=None, state="adapted", source="labelled", of_lists=None):
    """norms: (S, L); embedding and head get values that would show if they were mixed in. of_lists: (M, L) norms of
    whole lists, each of S / M examples after each other; None: examples drawn alone. Sensitivities are ten times, parts
    of lists a tenth of the norms; the mean square of layer l is l / 10."""
    norms = np.asarray(norms, float)
    part = np.zeros_like(norms) if normalisation_part is None else np.asarray(normalisation_part, float)
    lists = np.arange(len(norms)) if of_lists is None else np.arange(len(norms)) * len(of_lists) // len(norms)

    def of_list(example, layer):
        if of_lists is None:
            return None
        return {0: 4e5, norms.shape[1] + 1: 5e5}.get(layer) or float(of_lists[lists[example]][layer - 1])

    rows = [
        {
            "state": state,
            "source": source,
            "list": int(lists[example]),
            "example": example,
            "label": labels[example],
            "logit": logits[example],
            "layer": layer,
            "gradient_norm": {0: 1e6, norms.shape[1] + 1: 1e7 + 1e6 * example}.get(layer) or norms[example, layer - 1],
            "normalisation_part": 0.0 if layer in (0, norms.shape[1] + 1) else part[example, layer - 1],
            "list_norm": of_list(example, layer),
            "list_normalisation_part": None if of_lists is None else of_list(example, layer) / 10,
            "sensitivity": None if layer in (0, norms.shape[1] + 1) else 10 * norms[example, layer - 1],
            "parameters": 10 * layer,
            "mean_square": layer / 10,
        }
        for example in range(len(norms))
        for layer in range(norms.shape[1] + 2)
    ]
    return pl.DataFrame(rows, schema=SCHEMA)


LOG3 = float(np.log(3))  # p = 3/4


def test_traces_by_hand():
    # p = 1/2 and 3/4; p(1 - p) = 1/4 and 3/16; (p - y)^2 = 1/4 and, with y = 1, 1/16
    table = make_table([0.0, LOG3], [0, 1], [[8, 16], [32, 0]], [[4, 16], [0, 0]])
    model, label = layer_traces(table, "model"), layer_traces(table, "label")

    assert model.samples == pytest.approx(np.array([[2, 4], [6, 0]]))
    assert model.trace == pytest.approx([4, 2])
    assert model.share == pytest.approx([2 / 3, 1 / 3])
    assert model.error == pytest.approx([2, 2])  # half the distance of two values
    assert model.per_parameter == pytest.approx([4 / 10, 2 / 20])
    assert model.normalisation_share == pytest.approx([(1 + 0) / 2 / 4, 1])
    assert model.relative.value == pytest.approx([4 * 0.1, 2 * 0.2])
    assert model.relative.share == pytest.approx([1 / 2, 1 / 2])
    assert model.state_fisher.value == pytest.approx([40, 20])
    assert label.samples == pytest.approx(np.array([[2, 4], [2, 0]]))
    assert label.share == pytest.approx([1 / 2, 1 / 2])
    assert label.state_fisher.value == pytest.approx([20, 20])


def test_traces_of_lists_by_hand():
    # two lists of two candidates, p = (1/2, 1/2) and (3/4, 1/4)
    table = make_table(
        [0.0, 0.0, LOG3, 0.0], [None] * 4, [[8, 4], [4, 4], [16, 8], [8, 0]], [[2, 4], [4, 0], [0, 0], [0, 0]],
        of_lists=[[2, 4], [10, 7]], source="transfer",
    )  # fmt: skip
    found = layer_traces(table, "list")
    assert found.samples == pytest.approx(np.array([[6 - 2, 4 - 4], [14 - 10, 0]]))  # never below zero
    assert found.error == pytest.approx([0, 0])
    # p (1 - p) is 1/4 twice, then 3/16 twice; the sensitivities are ten times the norms
    assert found.state_fisher.samples == pytest.approx(10 * np.array([[3, 2], [24 * 3 / 16, 8 * 3 / 16]]))
    assert found.normalisation_share == pytest.approx([(3 - 0.2) / 8, 0])
    # of the embedding 1e6 - 4e5; of the head the gradient norms are 1e7 + 1e6 e
    assert outside_the_layers(table, "list")["embedding"]["trace"] == pytest.approx(6e5)
    assert outside_the_layers(table, "list")["head"]["trace"] == pytest.approx((1.05e7 + 1.225e7) / 2 - 5e5)

    model = layer_traces(table, "model")  # of whole lists too the candidates of one are a sample, for they are alike
    assert model.samples == pytest.approx(np.array([[6 / 4, 4 / 4], [(16 * 3 / 16 + 8 / 4) / 2, 8 * 3 / 16 / 2]]))


def test_each_kind_takes_the_examples_that_it_is_meant_for():
    transfer = make_table([0.0] * 4, [None] * 4, [[8, 6]] * 4, of_lists=[[1, 1]] * 2, source="transfer")
    labelled = make_table([0.0] * 4, [0, 1] * 2, [[100, 300]] * 4)
    both = pl.concat([labelled, transfer])
    assert profile.kinds_of(both) == ["model", "label", "list"]
    assert layer_traces(both, "model").trace == pytest.approx([2, 1.5])
    assert layer_traces(both, "list").trace == pytest.approx([7, 5])
    assert layer_traces(both, "label").trace == pytest.approx([25, 75])
    told = summary(both, seed=0)["adapted"]
    assert [(told[k]["source"], told[k]["examples"], told[k]["lists"]) for k in ("model", "label", "list")] == [
        ("transfer", 4, 2), ("labelled", 4, 4), ("transfer", 4, 2)
    ]  # fmt: skip

    assert profile.kinds_of(labelled) == ["model", "label"]
    assert layer_traces(labelled, "model").trace == pytest.approx([25, 75])
    with pytest.raises(UserError, match="expected whole lists"):
        layer_traces(labelled, "list")
    assert profile.kinds_of(transfer) == ["model", "list"]
    with pytest.raises(UserError, match="expected examples with labels"):
        layer_traces(transfer, "label")
    without_transfer = make_table([0.0] * 4, [0, 1] * 2, [[8, 4]] * 4, of_lists=[[1, 1]] * 2)
    assert profile.kinds_of(without_transfer) == ["model", "label", "list"]
    assert len(layer_traces(without_transfer, "label").samples) == 2


def test_rescaled_parameters_change_the_trace_alone():
    """A layer whose weights are ten times as large and whose gradients are a tenth computes the same."""
    norms = np.random.default_rng(0).exponential(size=(6, 3))
    table = make_table([0.0] * 6, [0, 1] * 3, norms)
    of_second = pl.col("layer") == 2
    scaled = table.with_columns(
        gradient_norm=pl.when(of_second).then(pl.col("gradient_norm") / 100).otherwise("gradient_norm"),
        mean_square=pl.when(of_second).then(pl.col("mean_square") * 100).otherwise("mean_square"),
    )
    one, other = layer_traces(table, "model"), layer_traces(scaled, "model")
    assert other.share[1] < one.share[1] / 10
    for name in ("relative", "state_fisher"):
        assert getattr(other, name).share == pytest.approx(getattr(one, name).share)
        assert getattr(other, name).share_error == pytest.approx(getattr(one, name).share_error)


def test_embedding_and_head_stand_beside_the_layers():
    table = make_table([0.0, LOG3], [0, 1], [[8, 16], [32, 0]])
    model, label = outside_the_layers(table, "model"), outside_the_layers(table, "label")
    assert model["embedding"] == pytest.approx({"trace": 1e6 * (4 + 3) / 32, "standard_error": 1e6 * (4 - 3) / 32})
    assert model["head"]["trace"] == pytest.approx((1e7 * 4 + 1.1e7 * 3) / 32)
    assert label["head"]["trace"] == pytest.approx((1e7 * 4 + 1.1e7) / 32)


def test_the_error_of_a_share_is_that_of_repeated_sampling():
    rng = np.random.default_rng(0)
    draw = lambda: rng.gamma(2, [1, 2, 4], (100, 3))  # noqa: E731
    shares = np.array([(s := draw().mean(0)) / s.sum() for _ in range(2000)])
    estimates = [layer_traces(make_table([0.0] * 100, [0] * 100, draw()), "model").share_error for _ in range(20)]
    assert np.mean(estimates, 0) == pytest.approx(shares.std(0), rel=0.1)


def test_certain_answers_keep_their_precision():
    table = make_table([40.0, -40.0], [1, 0], [[1, 2], [3, 4]])
    assert (layer_traces(table, "model").trace > 0).all()
    assert (layer_traces(table, "label").trace > 0).all()


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (make_table([0.0, 0.0], [0, 1], [[0, 0], [0, 0]]), "zero"),
        (make_table([0.0], [0], [[1, 2]]), "two samples"),
        (pl.concat([make_table([0.0], [0], [[1, 2]], state=s) for s in ("base", "adapted")]), "one state"),
    ],
)
def test_tables_without_a_trace_are_refused(table, message):
    with pytest.raises(UserError, match=message):
        layer_traces(table, "model")


def test_quarters():
    assert quarter_ratio(np.array([1.0, 3, 5, 7, 9, 11, 13, 15])) == (13 + 15) / (1 + 3)
    assert quarter_ratio(np.array([2.0, 3, 5])) == 5 / 2


def test_a_ranking_that_every_example_agrees_on_is_stable():
    table = make_table([0.0] * 20, [0] * 20, [[1, 2, 3, 4]] * 20)
    assert rank_stability(layer_traces(table, "model"), seed=0) == pytest.approx((1, 1))


def test_rank_stability_is_spearmans_correlation_over_resamples():
    norms = np.random.default_rng(1).exponential([1, 1.1, 1.2, 1.3, 1.4], (12, 5))
    traces = layer_traces(make_table([0.0] * 12, [0] * 12, norms), "model")
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
    assert list(result["base"]) == ["model", "label"]
    expected = layer_traces(tables[1], "label")
    found = result["base"]["label"]
    assert found["last_layer_share"] == pytest.approx(expected.share[-1])
    assert found["upper_lower_quarter_without_last"] == pytest.approx(
        expected.trace[6] / expected.trace[0]  # a quarter of 7 layers is one
    )
    assert found["outside"] == outside_the_layers(tables[1], "label")
    for name in ("relative", "state_fisher"):
        measure = getattr(expected, name)
        assert found[name]["last_layer_share"] == pytest.approx(measure.share[-1])
        assert found[name]["rank_stability"] == rank_stability(measure, 0)[0]
        assert [row[name] for row in found["layers"]] == pytest.approx(measure.value)
    assert [row["layer"] for row in found["layers"]] == list(range(1, 9))
    assert [row["trace"] for row in found["layers"]] == pytest.approx(expected.trace)

    rows = profile.plot_rows(table)
    assert len(rows) == 2 * 2 * 8
    assert rows.filter(state="base", kind="label")["share"].to_list() == pytest.approx(expected.share)


def test_one_layer_has_no_profile():
    with pytest.raises(UserError, match="two layers"):
        summary(make_table([0.0, 1.0], [0, 1], [[1], [2]]), seed=0)
