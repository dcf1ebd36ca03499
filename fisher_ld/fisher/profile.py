"""What the table of gradient norms says: traces per layer with their uncertainty, and the profile a person looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import polars as pl
from scipy.special import expit, softmax
from scipy.stats import rankdata

from fisher_ld.core.errors import UserError

Kind = Literal["model", "label", "list"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Measure:
    """A measure of the layers 1..L: the mean of what S samples contribute."""

    samples: np.ndarray  # (S, L) float64

    @property
    def value(self) -> np.ndarray:
        """(L,)"""
        return self.samples.mean(0)

    @property
    def error(self) -> np.ndarray:
        """Standard error of `value` over samples, (L,)."""
        return self.samples.std(0, ddof=1) / np.sqrt(len(self.samples))

    @property
    def share(self) -> np.ndarray:
        """Of the layers' total, (L,); of the traces Eq. 5 without gamma."""
        return self.value / self.value.sum()

    @property
    def share_error(self) -> np.ndarray:
        """Standard error of `share` by the delta method for a ratio of means, (L,)."""
        residual = self.samples - self.share * self.samples.sum(1, keepdims=True)  # (S, L)
        return Measure(residual).error / self.value.sum()


@dataclass(frozen=True)
class LayerTraces(Measure):
    """tr(F_l), and beside it two measures that hardly depend on how a layer is parametrised. A sample is an example
    that was drawn alone, or a list: the candidates of one are alike."""

    parameters: np.ndarray  # (L,) of layer l
    normalisation_share: np.ndarray  # (L,) what the normalisation parameters hold of the trace
    relative: Measure  # tr(F_l) times the mean square of the layer's weights
    state_fisher: Measure  # E c ||dz/dh_l||^2 rms(h_l)^2 of the layer's output at the decision token
    attention: np.ndarray  # (L,) mean KL of the decision token's attention from uniform; nan where it was not taken

    @property
    def trace(self) -> np.ndarray:
        """tr(F_l), (L,)."""
        return self.value

    @property
    def per_parameter(self) -> np.ndarray:
        """(L,)"""
        return self.value / self.parameters


def kinds_of(table: pl.DataFrame) -> list[Kind]:
    """The Fishers that a table tells: that of labels needs labels, that of lists whole lists."""
    lacking = {"model": False, "label": _rows(table, "label").is_empty(), "list": not _of_lists(_rows(table, "list"))}
    return [kind for kind in KINDS if not lacking[kind]]


def layer_traces(table: pl.DataFrame, kind: Kind) -> LayerTraces:
    """Traces of one model state.

    model (Eq. 1, 10) and label (Eq. 3): the mean of c ||dz/dtheta_l||^2 over examples, with c of `factor`. list: the
    mean over lists of sum_c p_c ||g_c||^2 - ||sum_c p_c g_c||^2, with g_c = dz_c/dtheta_l and p the softmax of z over
    the list's candidates. model and list are of transfer windows where the table has any.

    Of what a list's loss depends on, only z_c depends on the state of candidate c, whose Fisher is therefore
    p_c (1 - p_c) ||dz_c/dh_l||^2.

    Raises UserError for a table of two states, one without what the kind needs, and one whose traces are all zero.
    """
    contributed = _contributions(table, kind)
    count = layer_count(table)
    attention = _rows(table, kind).group_by("layer").agg(pl.col("attention").mean()).sort("layer")["attention"]
    traces = contributed.all[:, 1:-1]  # (S, L)
    if not traces.sum() > 0:
        raise UserError(f"the {kind} Fisher of all layers is zero: the model is certain of every answer")
    if len(traces) < 2:
        raise UserError("a standard error needs two samples or more, got one: raise fisher.samples")
    layers = table.sort("layer").unique("layer", maintain_order=True)[1 : count + 1]
    trace, normalisation = traces.mean(0), contributed.normalisation[:, 1:-1].mean(0)
    return LayerTraces(
        samples=traces,
        parameters=layers["parameters"].to_numpy(),
        normalisation_share=np.divide(normalisation, trace, out=np.zeros_like(trace), where=trace > 0),
        relative=Measure(traces * layers["mean_square"].to_numpy()),
        state_fisher=Measure(contributed.states[:, 1:-1]),
        attention=attention.cast(pl.Float64).to_numpy()[1:-1],
    )


@dataclass(frozen=True)
class _Contributions:
    """What each of S samples adds, (S, L + 2) each."""

    all: np.ndarray
    normalisation: np.ndarray
    states: np.ndarray  # nan for embedding and head


def _contributions(table: pl.DataFrame, kind: Kind) -> _Contributions:
    if table["state"].n_unique() != 1:
        raise UserError(f"expected the traces of one state, got {table['state'].unique().to_list()}")
    rows = _rows(table, kind)
    if rows.is_empty() or (kind == "list" and not _of_lists(rows)):
        raise UserError(f"expected {'whole lists' if kind == 'list' else 'examples with labels'} in the table of norms")
    columns = layer_count(table) + 2
    sample = pl.when(pl.col("list_norm").is_null()).then("example").otherwise("list")
    rows = rows.with_columns(sample=sample).sort("sample", "example", "layer")
    shape = rows["sample"].n_unique(), -1, columns

    def values(name: str) -> np.ndarray:
        return rows[name].cast(pl.Float64).to_numpy().reshape(shape)  # (S, C, L + 2), C = 1 where drawn alone

    if kind == "list":
        p = softmax(values("logit"), axis=1)

        def variance(of_each: str, of_list: str) -> np.ndarray:
            return ((p * values(of_each)).sum(1) - values(of_list)[:, 0]).clip(0)  # by rounding alone below

        return _Contributions(
            variance("gradient_norm", "list_norm"),
            variance("normalisation_part", "list_normalisation_part"),
            (p * (1 - p) * values("sensitivity")).sum(1),
        )
    each = factor(values("logit"), values("label"), kind)
    names = "gradient_norm", "normalisation_part", "sensitivity"
    return _Contributions(*((each * values(name)).mean(1) for name in names))


def _rows(table: pl.DataFrame, kind: Kind) -> pl.DataFrame:
    if kind == "label":
        return table.filter(pl.col("label").is_not_null())
    transfer = table.filter(pl.col("source") == "transfer")
    return table if transfer.is_empty() else transfer


def _of_lists(rows: pl.DataFrame) -> bool:
    return not rows["list_norm"].has_nulls()


def factor(logits: np.ndarray, labels: np.ndarray, kind: Literal["model", "label"]) -> np.ndarray:
    """c of each example, by which its ||dz/dtheta||^2 counts. With p = sigmoid(z): p (1 - p) where the label is drawn
    from the model (Eq. 1, 10), (p - y)^2 where it is the data's (Eq. 3)."""
    yes, no = expit(logits), expit(-logits)  # p and 1 - p
    return yes * no if kind == "model" else np.where(labels == 1, no, yes) ** 2


def outside_the_layers(table: pl.DataFrame, kind: Kind) -> dict[str, dict[str, float]]:
    """Trace and standard error of the embedding and of the head (final norm and answer rows), of one model state."""
    both = Measure(_contributions(table, kind).all[:, [0, -1]])
    return {
        name: {"trace": float(both.value[i]), "standard_error": float(both.error[i])}
        for i, name in enumerate(("embedding", "head"))
    }


def layer_count(table: pl.DataFrame) -> int:
    """L; the table's layers are 0 (embedding) to L + 1 (head)."""
    return int(table["layer"].to_numpy().max()) - 1


def rank_stability(measure: Measure, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Spearman's correlation between the layers' ranking and its ranking on bootstrap samples: the mean, and the value
    that 95% of the resamples reach."""
    samples = measure.samples
    count = len(samples)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)  # (R, S)
    ranks = rankdata(draws @ samples, axis=1)  # (R, L)
    ranks -= ranks.mean(1, keepdims=True)
    own = rankdata(measure.value)
    own -= own.mean()
    correlation = ranks @ own / np.sqrt((ranks**2).sum(1) * (own**2).sum())  # (R,)
    return float(correlation.mean()), float(np.quantile(correlation, 0.05))


def quarter_ratio(trace: np.ndarray) -> float:
    """Trace of the upper quarter of the layers over that of the lower quarter."""
    layers = quarter(len(trace))
    return float(trace[-layers:].sum() / trace[:layers].sum())


def quarter(layers: int) -> int:
    return max(1, layers // 4)


def summary(table: pl.DataFrame, seed: int) -> dict:
    """All numbers, by state and kind: those of the trace, and below `relative` and `state_fisher` those of the two
    measures beside it. The largest value is often the last layer's, so the ratio of the quarters stands there without
    it as well."""
    if layer_count(table) < 2:
        raise UserError("a Fisher profile needs a model of two layers or more")
    result: dict = {}
    for state, rows in _states(table):
        result[state] = {}
        for kind in kinds_of(rows):
            traces, taken = layer_traces(rows, kind), _rows(rows, kind)
            result[state][kind] = {
                "source": taken["source"][0],
                "examples": taken["example"].n_unique(),
                "lists": taken["list"].n_unique(),
                **_measured(traces, seed),
                "normalisation_share": float(traces.normalisation_share @ traces.share),
                "relative": _measured(traces.relative, seed),
                "state_fisher": _measured(traces.state_fisher, seed),
                "outside": outside_the_layers(rows, kind),
                "layers": by_layer(traces).to_dicts(),
            }
    return result


def _measured(measure: Measure, seed: int) -> dict[str, float]:
    stability, stability_low = rank_stability(measure, seed)
    return {
        "upper_lower_quarter": quarter_ratio(measure.value),
        "upper_lower_quarter_without_last": quarter_ratio(measure.value[:-1]),
        "last_layer_share": float(measure.share[-1]),
        "largest_share_error": float(measure.share_error.max()),
        "rank_stability": stability,
        "rank_stability_low": stability_low,
    }


def by_layer(traces: LayerTraces) -> pl.DataFrame:
    columns = {
        "layer": range(1, len(traces.trace) + 1),
        "trace": traces.trace,
        "standard_error": traces.error,
        "per_parameter": traces.per_parameter,
        "share": traces.share,
        "share_standard_error": traces.share_error,
        "share_without_last": [*traces.trace[:-1] / traces.trace[:-1].sum(), None],
        "normalisation_share": traces.normalisation_share,
    }
    for name, measure in (("relative", traces.relative), ("state_fisher", traces.state_fisher)):
        columns |= {
            name: measure.value,
            f"{name}_share": measure.share,
            f"{name}_share_standard_error": measure.share_error,
        }
    return pl.DataFrame(columns)


def plot_rows(table: pl.DataFrame) -> pl.DataFrame:
    """`by_layer` for every state and kind, one below the other."""
    frames = [
        by_layer(layer_traces(rows, kind)).select(pl.lit(state).alias("state"), pl.lit(kind).alias("kind"), pl.all())
        for state, rows in _states(table)
        for kind in kinds_of(rows)
    ]
    return pl.concat(frames)


def _states(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    names = table["state"].unique(maintain_order=True)
    return [(name, table.filter(pl.col("state") == name)) for name in names]
