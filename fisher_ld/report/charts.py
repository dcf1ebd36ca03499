"""The pictures of the report, as self-contained SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from fisher_ld.report.inputs import MAIN, PRIMARY, STUDENT, Results, label, ordered

WIDTH = 10.5  # inches: the text column of the page
BLUE, GREY, INK = "#1f6fb4", "#8a8f98", "#22262b"
COLOURS = {
    "teacher": INK,
    STUDENT: BLUE,
    "uniform": "#e07a1f",
    "none": GREY,
    "linear": "#3a9a5b",
    "exponential": "#8a63d2",
    "fisher": "#69b3e7",
    "fisher-shuffled": "#c94f7c",
    "fisher-reversed": "#b58900",
}
STYLE: dict[Any, Any] = {
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "font.size": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "svg.hashsalt": "fisher-ld",  # the same picture is the same file
}


def colour(model: str) -> str:
    return COLOURS.get(model, GREY)


def svg(figure: Figure) -> str:
    with io.StringIO() as text:
        figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def charts(results: Results) -> dict[str, str]:
    """name -> SVG; `trajectory` only where a student's weights changed."""
    with rc_context(STYLE):
        figures = {
            "quality": quality(results),
            "tradeoff": tradeoff(results),
            "weights": weights(results.weights),
            "training": training(results.curves),
        }
        if results.changing(STUDENT):
            figures["trajectory"] = trajectory(results.weights[STUDENT])
        return {name: svg(figure) for name, figure in figures.items()}


def _error(cell: Mapping[str, float]) -> list[list[float]]:
    return [[cell["mean"] - cell["low"]], [cell["high"] - cell["mean"]]]


def quality(results: Results) -> Figure:
    """NDCG@10 of every model with its interval, chance as a line."""
    rows = results.evaluate["quality"][MAIN]
    models = [m for m in ordered(rows) if m != "chance"]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.34 * len(models)), layout="constrained")
    axes = figure.subplots()
    for place, model in enumerate(reversed(models)):
        cell = rows[model][PRIMARY]
        axes.errorbar(cell["mean"], place, xerr=_error(cell), fmt="o", color=colour(model), capsize=3)
    axes.set_yticks(range(len(models)), [label(m) for m in reversed(models)])
    by_chance = rows["chance"][PRIMARY]["mean"]
    axes.axvline(by_chance, color=GREY, linestyle=":")
    axes.annotate("chance", (by_chance, 1), xycoords=("data", "axes fraction"), color=GREY, ha="right", va="bottom")
    axes.set_xlabel("NDCG@10, popularity lists, with 95% interval")
    axes.grid(axis="y", visible=False)
    return figure


def tradeoff(results: Results) -> Figure:
    """NDCG@10 against throughput and parameters, both relative to the teacher; simple baselines as lines."""
    rows = results.evaluate["quality"][MAIN]
    found = results.evaluate["efficiency"]
    points: dict[str, tuple[float, float]] = {}
    for name, timed in found["models"].items():
        ratio = found["ratios"].get(name, {"throughput": 1.0, "parameters": 1.0})
        points |= {m: (ratio["throughput"], 100 / ratio["parameters"]) for m in timed["stands_for"] if m in rows}
    shown = [m for m in ordered(points) if m in ("teacher", "none", "uniform", STUDENT)]
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, which, name in (
        (left, 0, "throughput, times the teacher's"),
        (right, 1, "parameters, % of the teacher's"),
    ):
        spread = 0.03 * max(point[which] for point in points.values())
        for number, model in enumerate(shown):
            # students of one architecture share a place: moved apart to be seen
            aside = 0.0 if model == "teacher" else (number - len(shown) / 2) * spread
            cell = rows[model][PRIMARY]
            axes.errorbar(
                points[model][which] + aside, cell["mean"], yerr=_error(cell), fmt="o", color=colour(model), capsize=3,
                label=label(model),
            )  # fmt: skip
        for baseline in ("popularity", "item-knn"):
            if baseline in rows:
                value = rows[baseline][PRIMARY]["mean"]
                axes.axhline(value, color=GREY, linestyle=":", linewidth=1)
                axes.annotate(
                    label(baseline), (0.99, value), xycoords=("axes fraction", "data"), color=GREY, ha="right",
                    va="bottom", fontsize=9,
                )  # fmt: skip
        axes.set_xlim(left=0)
        axes.margins(x=0.1)
        axes.set_xlabel(name)
    left.set_ylabel("NDCG@10, popularity lists")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=len(shown))
    return figure


def _first_seed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("seed") == 0)


def weights(frames: Mapping[str, pl.DataFrame]) -> Figure:
    """The layer weights that each strategy starts with, one panel a strategy."""
    names = [m for m in ordered(frames) if m != STUDENT] or list(frames)
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 2.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        first = _first_seed(frames[name]).filter(pl.col("step") == pl.col("step").min()).sort("layer")
        axes.bar(first["layer"], 100 * first["weight"], color=colour(name))
        axes.set_title(label(name).removeprefix("student, "))
        axes.grid(axis="x", visible=False)
    for axes in grid.flat[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("teacher layer", fontsize=10)
    figure.supylabel("weight (%)", fontsize=10)
    return figure


def trajectory(frame: pl.DataFrame) -> Figure:
    """Eq. 9: the weight of every layer over the steps, and the weights at the start and at the end, of one seed."""
    table = _first_seed(frame).pivot(on="step", index="layer", values="weight").sort("layer")
    steps = np.array([int(name) for name in table.columns[1:]])
    values = 100 * table.drop("layer").to_numpy()  # (layers, steps)
    layers = table["layer"].to_numpy()
    figure = Figure(figsize=(WIDTH, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    # one layer may hold most of the weight; a zero weight is drawn as the smallest
    norm = LogNorm(values[values > 0].min(), values.max(), clip=True)
    mesh = left.pcolormesh(steps, layers, values, cmap="viridis", shading="nearest", norm=norm, rasterized=True)
    left.grid(visible=False)
    bar = figure.colorbar(mesh, ax=left, label="weight (%), logarithmic", format="{x:g}")
    bar.ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    bar.ax.yaxis.set_minor_formatter("{x:g}")
    left.set(xlabel="optimiser step", ylabel="teacher layer", title="weights over the steps")
    right.bar(layers - 0.2, values[:, 0], 0.4, color=COLOURS["fisher"], label="start")
    right.bar(layers + 0.2, values[:, -1], 0.4, color=INK, label=f"step {steps[-1]:,}")
    right.set(xlabel="teacher layer", ylabel="weight (%)", title="start and end")
    right.grid(axis="x", visible=False)
    right.legend()
    return figure


def _curve(axes: Any, frame: pl.DataFrame, column: str, name: str, tint: str) -> None:
    """A curve, the mean over seeds, smoothed by a running median where it has many points."""
    rows = frame.select("step", column).drop_nulls().group_by("step").mean().sort("step")
    if rows.is_empty():
        return
    window = len(rows) // 20
    values = rows[column]
    if window > 1:
        values = values.rolling_median(window, min_samples=1, center=True)
    axes.plot(rows["step"], values, color=tint, label=name, marker="o" if len(rows) < 20 else None, markersize=3.5)


def training(curves: Mapping[str, pl.DataFrame]) -> Figure:
    """The teacher's and the students' validation and losses."""
    students = [m for m in ordered(curves) if m != "teacher"]
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    (validation, bce), (layers, teacher) = figure.subplots(2, 2)
    for axes, column, title in (
        (validation, "validation_ndcg_10", "students: validation NDCG@10"),
        (bce, "bce", "students: BCE on the labels"),
        (layers, "layers", "students: layer loss, weighted by strategy"),
    ):
        for name in students:
            if column in curves[name].columns:
                _curve(axes, curves[name], column, label(name).removeprefix("student, "), colour(name))
        axes.set_title(title)
    curve = curves["teacher"]
    _curve(teacher, curve, "loss", "loss", GREY)
    teacher.set(title="teacher: loss (left) and validation NDCG@10 (right)")
    for depth, begin in curve.group_by("depth", maintain_order=True).agg(pl.col("step").min()).iter_rows():
        teacher.axvline(begin, color=GREY, linewidth=0.8, linestyle=":")
        teacher.annotate(f" {depth} layers", (begin, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=8)
    twin = teacher.twinx()
    for _, part in curve.group_by("depth", maintain_order=True):
        _curve(twin, part, "validation_ndcg_10", "validation", INK)
    twin.spines["right"].set_visible(True)
    twin.grid(visible=False)
    for axes in (layers, teacher):
        axes.set_xlabel("optimiser step")
    handles, names = validation.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure
