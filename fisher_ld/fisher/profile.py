"""What the table of norms says: traces per layer with their uncertainty, and the profile a person looks at."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import polars as pl
from scipy.special import expit
from scipy.stats import rankdata

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path

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
    norms_share: np.ndarray  # what the normalisation parameters hold of `trace`
    samples: np.ndarray  # (S, L): each example's contribution, whose mean is `trace`


def layer_traces(table: pl.DataFrame, kind: Kind) -> LayerTraces:
    """Traces of one model state. With p = sigmoid(z), an example contributes c ||dz/dtheta_l||^2, where c is
    (p - y)^2 for the empirical Fisher (Eq. 3) and p(1 - p) for the true one (Eq. 1, 10)."""
    if table["state"].n_unique() != 1:
        raise UserError(f"expected the traces of one state, got {table['state'].unique().to_list()}")
    count = layer_count(table)
    layers = table.filter(pl.col("layer").is_between(1, count)).sort("example", "layer")
    factor = _factor(layers, kind).reshape(-1, count)  # (S, L), equal along a row
    samples = factor * layers["norm"].to_numpy().reshape(-1, count)  # (S, L)
    norms = factor * layers["norms_part"].to_numpy().reshape(-1, count)  # (S, L)
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
        norms_share=np.divide(norms.mean(0), trace, out=np.zeros_like(trace), where=trace > 0),
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
        samples = _factor(rows, kind) * rows["norm"].to_numpy()  # (S,)
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
                "norms_share": float(traces.norms_share @ traces.share),
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
            "norms_share": traces.norms_share,
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


def plot(table: pl.DataFrame, path: Path) -> None:
    """The profile of every state as a picture: each layer's share of the true Fisher with its standard error, and what
    the normalisation parameters hold of it."""
    from matplotlib.figure import Figure

    names = {"base": ("before adaptation", "#b0b0b0"), "adapted": ("after adaptation", "#1f6fb4")}
    figure = Figure(figsize=(9, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    states = sorted(_states(table), key=lambda pair: pair[0] == "adapted")
    width = 0.8 / len(states)
    findings = []
    for number, (state, rows) in enumerate(states):
        name, colour = names.get(state, (state, None))
        traces = layer_traces(rows, "true")
        x = np.arange(1, len(traces.trace) + 1) + (number - (len(states) - 1) / 2) * width
        error = {"ecolor": "#404040", "elinewidth": 0.8}
        above.bar(x, 100 * traces.share, width, color=colour, label=name, yerr=100 * traces.share_error, error_kw=error)
        below.bar(x, 100 * traces.norms_share, width, color=colour)
        without = quarter_ratio(traces.trace[:-1])
        findings.append(f"{quarter_ratio(traces.trace):.2g} {name} ({without:.2g} without the last layer)")
    layers = layer_count(table)
    for start in (0, layers - quarter(layers)):
        above.axvspan(start + 0.5, start + quarter(layers) + 0.5, color="#f2f2f2", zorder=0)
    title = "True Fisher, upper quarter of the layers over the lower (shaded):\n" + ", ".join(findings)
    above.set_title(title, loc="left", fontsize=11)
    above.set_ylabel("share of the Fisher trace (%)")
    above.legend(frameon=False)
    below.set_ylabel("of which\nnorms (%)")
    below.set_xlabel("layer")
    below.set_xlim(0.3, layers + 0.7)
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=130)


def _states(table: pl.DataFrame) -> list[tuple[str, pl.DataFrame]]:
    names = table["state"].unique(maintain_order=True)
    return [(name, table.filter(pl.col("state") == name)) for name in names]
