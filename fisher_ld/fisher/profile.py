"""What the table of gradient norms says: traces per layer with their uncertainty, and the profile a person looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl
from scipy.special import expit
from scipy.stats import rankdata

from fisher_ld.core.errors import UserError

Kind = Literal["empirical", "true"]
KINDS: tuple[Kind, ...] = ("true", "empirical")


@dataclass(frozen=True)
class LayerTraces:
    """Arrays over the layers 1..L, all (L,) float64, from S examples."""

    trace: np.ndarray  # tr(F_l)
    error: np.ndarray  # standard error of `trace` over examples
    share: np.ndarray  # tr(F_l) / sum tr(F), Eq. 5 without gamma
    share_error: np.ndarray  # standard error of `share`
    per_parameter: np.ndarray  # tr(F_l) / parameters of layer l
    normalisation_share: np.ndarray  # what the normalisation parameters hold of `trace`
    samples: np.ndarray  # (S, L): each example's contribution, whose mean is `trace`


def layer_traces(table: pl.DataFrame, kind: Kind) -> LayerTraces:
    """Traces of one model state. With p = sigmoid(z), an example contributes c ||dz/dtheta_l||^2, where c is
    (p - y)^2 for the empirical Fisher (Eq. 3) and p(1 - p) for the true one (Eq. 1, 10)."""
    if table["state"].n_unique() != 1:
        raise UserError(f"expected the traces of one state, got {table['state'].unique().to_list()}")
    count = layer_count(table)
    layers = table.filter(pl.col("layer").is_between(1, count)).sort("example", "layer")
    factor = _factor(layers, kind).reshape(-1, count)  # (S, L), equal along a row
    samples = factor * layers["gradient_norm"].to_numpy().reshape(-1, count)  # (S, L)
    normalisation = factor * layers["normalisation_part"].to_numpy().reshape(-1, count)  # (S, L)
    trace = samples.mean(0)
    if not trace.sum() > 0:
        raise UserError(f"the {kind} Fisher of all layers is zero: the model is certain of every answer")
    if len(samples) < 2:
        raise UserError("a standard error needs two examples or more, got one: raise fisher.samples")
    share = trace / trace.sum()
    residual = samples - share * samples.sum(1, keepdims=True)  # (S, L), the delta method for a ratio of means
    return LayerTraces(
        trace=trace,
        error=_standard_error(samples),
        share=share,
        share_error=_standard_error(residual) / trace.sum(),
        per_parameter=trace / layers["parameters"].to_numpy().reshape(-1, count)[0],
        normalisation_share=np.divide(normalisation.mean(0), trace, out=np.zeros_like(trace), where=trace > 0),
        samples=samples,
    )


def _factor(rows: pl.DataFrame, kind: Kind) -> np.ndarray:
    """c of every row."""
    logit, label = rows["logit"].to_numpy(), rows["label"].to_numpy()
    yes, no = expit(logit), expit(-logit)  # p and 1 - p
    return yes * no if kind == "true" else np.where(label == 1, no, yes) ** 2


def outside_the_layers(table: pl.DataFrame, kind: Kind) -> dict[str, dict[str, float]]:
    """Trace and standard error of the embedding and of the head (final norm and answer rows), of one model state."""
    result = {}
    for name, layer in (("embedding", 0), ("head", layer_count(table) + 1)):
        rows = table.filter(pl.col("layer") == layer)
        samples = _factor(rows, kind) * rows["gradient_norm"].to_numpy()  # (S,)
        result[name] = {"trace": float(samples.mean()), "standard_error": float(_standard_error(samples))}
    return result


def layer_count(table: pl.DataFrame) -> int:
    """L; the table's layers are 0 (embedding) to L + 1 (head)."""
    return int(table["layer"].to_numpy().max()) - 1


def _standard_error(samples: np.ndarray) -> np.ndarray:
    """Of the mean over the first axis."""
    return samples.std(0, ddof=1) / np.sqrt(len(samples))


def rank_stability(traces: LayerTraces, seed: int, resamples: int = 1000) -> tuple[float, float]:
    """Spearman's correlation between the layers' ranking and its ranking on bootstrap samples of the examples: the
    mean, and the value that 95% of the resamples reach."""
    samples = traces.samples
    count = len(samples)
    draws = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)  # (R, S)
    ranks = rankdata(draws @ samples, axis=1)  # (R, L)
    ranks -= ranks.mean(1, keepdims=True)
    own = rankdata(traces.trace)
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
    """All numbers, by state and kind. The largest trace is often the last layer's, so the ratio of the quarters stands
    there without it as well."""
    if layer_count(table) < 2:
        raise UserError("a Fisher profile needs a model of two layers or more")
    result: dict = {}
    for state, rows in _states(table):
        result[state] = {"examples": rows["example"].n_unique()}
        for kind in KINDS:
            traces = layer_traces(rows, kind)
            stability, stability_low = rank_stability(traces, seed)
            result[state][kind] = {
                "upper_lower_quarter": quarter_ratio(traces.trace),
                "upper_lower_quarter_without_last": quarter_ratio(traces.trace[:-1]),
                "last_layer_share": float(traces.share[-1]),
                "normalisation_share": float(traces.normalisation_share @ traces.share),
                "largest_share_error": float(traces.share_error.max()),
                "rank_stability": stability,
                "rank_stability_low": stability_low,
                "outside": outside_the_layers(rows, kind),
                "layers": by_layer(traces).to_dicts(),
            }
    return result


def by_layer(traces: LayerTraces) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "layer": range(1, len(traces.trace) + 1),
            "trace": traces.trace,
            "standard_error": traces.error,
            "per_parameter": traces.per_parameter,
            "share": traces.share,
            "share_standard_error": traces.share_error,
            "share_without_last": [*traces.trace[:-1] / traces.trace[:-1].sum(), None],
            "normalisation_share": traces.normalisation_share,
        }
    )


def plot_rows(table: pl.DataFrame) -> pl.DataFrame:
    """`by_layer` for every state and kind, one below the other."""
    frames = [
        by_layer(layer_traces(rows, kind)).select(pl.lit(state).alias("state"), pl.lit(kind).alias("kind"), pl.all())
        for state, rows in _states(table)
        for kind in KINDS
    ]
    return pl.concat(frames)


def _states(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    names = table["state"].unique(maintain_order=True)
    return [(name, table.filter(pl.col("state") == name)) for name in names]
