"""The data report: what the filters left, what the lists hold; in numbers and in plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.core.files import atomic_path

LISTS = ("train", "val", "test_popularity", "test_uniform")
QUANTILES = {"min": 0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}


def data_report(
    folder: Path, rejected: pl.DataFrame, rows: Mapping[str, int], steps: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """`folder`: what `preprocess` wrote. `rows`: rows of each raw file. `steps`: what each filter left."""
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    lists = {name: pl.read_parquet(folder / f"{name}.parquet", columns=["candidates"])["candidates"] for name in LISTS}
    before, after = steps[0], steps[-1]
    core = next(step for step in steps if step["step"] == "k-core")  # a sample of users is no loss
    reasons = rejected.group_by("file", "reason").len().sort("file", "reason")
    return {
        "filters": list(steps),
        "lost": {what: 1 - core[what] / before[what] for what in ("users", "items", "interactions")},
        "sparsity": {"before": _sparsity(before), "after": _sparsity(after)},
        "history_length": _quantiles(users["length"]),
        "train_positives": _quantiles(users["train_positives"]),
        "item_count": _quantiles(items["count"]),
        "items_without_train_positive": int((items["count"] == 0).sum()),
        "items_without_category": int((items["categories"].list.len() == 0).sum()),
        "items_that_share_a_text": int(items["text"].is_duplicated().sum()),
        "rows": dict(rows),
        "rejected": {
            "rows": len(rejected),
            "share": len(rejected) / sum(rows.values()),
            "by_reason": [dict(zip(("file", "reason", "rows"), row, strict=True)) for row in reasons.iter_rows()],
        },
        "lists": {name: len(candidates) for name, candidates in lists.items()},
        "examples": {name: int(candidates.list.len().sum()) for name, candidates in lists.items()},
        "folds": users["fold"].value_counts().sort("fold")["count"].to_list(),
    }


def report_metrics(report: Mapping[str, Any]) -> dict[str, float]:
    """The report's single numbers, for tracking."""
    after = report["filters"][-1]
    metrics = {name: float(after[name]) for name in ("users", "items", "interactions")}
    metrics |= {f"lost/{name}": value for name, value in report["lost"].items()}
    metrics |= {f"lists/{name}": float(value) for name, value in report["lists"].items()}
    metrics |= {"sparsity": report["sparsity"]["after"], "history_length/median": report["history_length"]["median"]}
    return metrics | {"rejected": float(report["rejected"]["rows"])}


def _sparsity(step: Mapping[str, Any]) -> float:
    return 1 - step["interactions"] / (step["users"] * step["items"])


def _quantiles(values: pl.Series) -> dict[str, float]:
    array = values.to_numpy()
    quantiles = {name: float(np.quantile(array, q)) for name, q in QUANTILES.items()}
    return {"mean": float(array.mean()), **quantiles}


def plot_report(report: Mapping[str, Any], folder: Path, plots: Path) -> list[Path]:
    """history_lengths.png, item_popularity.png and filters.png in the folder `plots`, from what `preprocess` wrote."""
    from matplotlib.figure import Figure

    lengths = pl.read_parquet(folder / "users.parquet")["length"].to_numpy()
    counts = pl.read_parquet(folder / "items.parquet")["count"].to_numpy()
    figures: dict[str, Figure] = {
        "history_lengths": _plot_lengths(lengths),
        "item_popularity": _plot_popularity(counts),
        "filters": _plot_filters(report["filters"]),
    }
    paths = [plots / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=120, bbox_inches="tight")
    return paths


BLUE, ORANGE, GREY = "#2a6f97", "#e07a1f", "#555555"


def _figure() -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4))
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _log(axis: Any, steps: tuple[int, ...] = (1, 2, 5)) -> None:
    """Logarithmic with ticks at 1, 2, 5, 10, 20, ... as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter

    getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter("{x:,.0f}")
    axis.set_minor_formatter(NullFormatter())


def _plot_lengths(lengths: np.ndarray) -> Any:
    figure, axes = _figure()
    edges = np.unique(np.round(np.geomspace(lengths.min(), lengths.max() + 1, 21))) - 0.5
    axes.hist(lengths, bins=edges, color=BLUE, edgecolor="white", linewidth=0.5)
    median = np.median(lengths)
    axes.axvline(median, color=ORANGE)
    axes.annotate(f" median {median:g}", (median, 1.01), xycoords=("data", "axes fraction"), color=ORANGE)
    _log(axes.xaxis)
    axes.set(xlabel="positives of a user (log scale)", ylabel="users")
    axes.set_title(f"History lengths of {len(lengths):,} users", loc="left", pad=18)
    return figure


def _plot_popularity(counts: np.ndarray) -> Any:
    figure, axes = _figure()
    ranked = np.sort(counts)[::-1]
    drawn = ranked[ranked > 0]
    axes.plot(np.arange(1, len(drawn) + 1), drawn, color=BLUE, linewidth=2)
    _log(axes.xaxis, (1,))
    _log(axes.yaxis)
    head = ranked[: max(1, len(ranked) // 10)].sum() / max(ranked.sum(), 1)
    note = f"most popular tenth: {head:.0%} of all train positives\nitems without any: {(counts == 0).sum():,}"
    axes.annotate(note, (0.03, 0.05), xycoords="axes fraction", color=GREY)
    axes.set(xlabel="rank of the item (log scale)", ylabel="train positives (log scale)")
    axes.set_title(f"Popularity of {len(counts):,} items", loc="left")
    axes.grid(alpha=0.25)
    return figure


def _plot_filters(steps: Sequence[Mapping[str, Any]]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 0.5 + 0.45 * len(steps)))
    names = [step["step"] for step in steps]
    for axes, what in zip(figure.subplots(1, 3, sharey=True), ("users", "items", "interactions"), strict=True):
        values = [step[what] for step in steps]
        axes.barh(names, values, color=BLUE)
        for place, value in enumerate(values):
            axes.annotate(f" {value:,}", (value, place), va="center", color=GREY)
        axes.set_title(what)
        axes.set_xlim(0, max(values) * 1.3)
        axes.set_xticks([])
        axes.spines[["top", "right", "bottom"]].set_visible(False)
    figure.axes[0].invert_yaxis()
    return figure
