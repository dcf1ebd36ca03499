"""All pictures of the project, as self-contained SVG."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
from matplotlib import rc_context
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from fisher_ld.batches.lists import MAIN
from fisher_ld.experiments.claims import FISHER
from fisher_ld.experiments.peers import front, places
from fisher_ld.experiments.results import PROPOSED, Part
from fisher_ld.report.names import (
    BLUE,
    GREY,
    INK,
    METRIC_LABELS,
    ORANGE,
    PALE,
    colour,
    label,
    learned_from,
    ordered,
    short,
)

WIDTH = 10.5  # inches: the text column of the page
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
NDCG = METRIC_LABELS["ndcg_10"]


def charts(part: Part, method: str) -> dict[str, str]:
    """Name -> SVG. Of each student STUDENT/training, and STUDENT/trajectory where the weights of `method` changed."""
    with rc_context(STYLE):
        figures = {
            "quality": quality(part),
            "reliability": reliability(part, method),
            "tradeoff": tradeoff(part),
            "profile": profile(part),
            "data": data(part.data),
        }
        if first := part.weighted(part.run.students[0]):
            figures["weights"] = weights({model: part.weights[model] for model in first})
        for student in part.run.students:
            figures[f"{student}/training"] = training(part, student)
            if part.changing(f"{student}/{method}"):
                figures[f"{student}/trajectory"] = trajectory(part.weights[f"{student}/{method}"])
        return {name: _svg(figure) for name, figure in figures.items()}


def _svg(figure: Figure) -> str:
    with io.StringIO() as text:
        figure.savefig(text, format="svg", metadata={"Date": None})
        return text.getvalue()


def _error(cell: Mapping[str, float]) -> list[list[float]]:
    return [[cell["mean"] - cell["low"]], [cell["high"] - cell["mean"]]]


def quality(part: Part) -> Figure:
    """NDCG@10 of every model with its interval, chance as a line."""
    models = [m for m in ordered(part.evaluate["quality"][MAIN], part.run) if m != "chance" and part.quality(m)]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.34 * len(models)), layout="constrained")
    axes = figure.subplots()
    for place, model in enumerate(reversed(models)):
        cell = part.evaluate["quality"][MAIN][model]["ndcg_10"]
        axes.errorbar(cell["mean"], place, xerr=_error(cell), fmt="o", color=colour(model), capsize=3)
    axes.set_yticks(range(len(models)), [label(m, part.run) for m in reversed(models)])
    if by_chance := part.quality("chance"):
        axes.axvline(by_chance["mean"], color=GREY, linestyle=":")
        place = (by_chance["mean"], 1)
        axes.annotate("chance", place, xycoords=("data", "axes fraction"), color=GREY, ha="right", va="bottom")
    axes.set_xlabel(f"{NDCG}, {MAIN} lists, with 95% interval")
    axes.grid(axis="y", visible=False)
    return figure


def reliability(part: Part, method: str) -> Figure:
    """Of the teacher and of the students of `method`, first seed: predicted probability and observed share of likes by
    bin, as scored, with a temperature alone, with a bias beside it."""
    figure = Figure(figsize=(WIDTH, 3.7), layout="constrained")
    kinds = {"as_scored": "as scored", "temperature": "temperature alone", "with_bias": "temperature and bias"}
    for axes, (kind, title) in zip(figure.subplots(1, len(kinds)), kinds.items(), strict=True):
        for model in ("teacher", *(f"{student}/{method}" for student in part.run.students)):
            rows = part.calibration["models"][model][0][kind]["reliability"]
            predicted, liked, n = (np.array([row[key] for row in rows]) for key in ("predicted", "liked", "n"))
            axes.errorbar(
                predicted, liked, yerr=1.96 * np.sqrt(liked * (1 - liked) / n), fmt=f"{_marker(model, part)}-",
                color=colour(model), linewidth=1, elinewidth=0.8, capsize=2, markersize=4, label=label(model, part.run),
            )  # fmt: skip
        axes.axline((0, 0), slope=1, color=GREY, linestyle=":")
        axes.set(title=title, xlabel="predicted", xlim=(0, None), ylim=(0, None))
    figure.axes[0].set_ylabel("share that was liked")
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=3)
    return figure


def _marker(model: str, part: Part) -> str:
    shape = model.partition("/")[0]
    if shape in part.run.students:
        return "o^Dv"[part.run.students.index(shape) % 4]
    return {"teacher": "o", "rivals": "X"}.get(shape, "s")


def _key(model: str, part: Part) -> str:
    """In the legend, which names a method once: it has one colour in all shapes."""
    shape, students = model.partition("/")[0], part.run.students
    if shape not in students:
        return label(model, part.run)
    return short(model) if shape == students[0] else f"_{model}"  # that is in no legend


def tradeoff(part: Part) -> Figure:
    """NDCG@10 against throughput and parameters, both relative to the teacher, with the front of quality and
    throughput; as lines the best rivals on validation that were not timed: without more labels, and with all."""
    found = places(part)
    shown = ordered(found, part.run)
    gate = next(iter(part.gates.values()))
    means = {name: row["mean_b"] for name, row in gate["rivals"].items()}  # on validation lists
    kinds = [[m for m in means if (learned_from(m) == "all") is informed] for informed in (False, True)]
    best = [max(kind, key=means.__getitem__) for kind in kinds if kind]
    rivals = [rival for rival in best if rival not in found]
    figure = Figure(figsize=(WIDTH, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, costs, name in (
        (left, {m: place.throughput for m, place in found.items()}, "throughput, times the teacher's"),
        (right, {m: place.parameters for m, place in found.items()}, "parameters, % of the teacher's"),
    ):
        at = {}
        for model in shown:
            # models of one architecture share a place: moved apart to be seen
            here = [m for m in shown if costs[m] == costs[model]]
            step = min(0.03, 0.2 / len(here)) * max(costs.values())
            at[model] = costs[model] + (here.index(model) - (len(here) - 1) / 2) * step
            cell = part.evaluate["quality"][MAIN][model]["ndcg_10"]
            axes.errorbar(
                at[model], cell["mean"], yerr=_error(cell), fmt=_marker(model, part), color=colour(model),
                elinewidth=0.8, capsize=2, label=_key(model, part),
            )  # fmt: skip
        if axes is left:
            unbeaten = front(found)
            line = [at[m] for m in unbeaten], [found[m].quality for m in unbeaten]
            axes.step(*line, where="pre", color=INK, linewidth=1, zorder=1)
        for rival in rivals:
            value = means[rival]
            axes.axhline(value, color=GREY, linestyle=":", linewidth=1)
            axes.annotate(
                label(rival, part.run), (0.99, value), xycoords=("axes fraction", "data"), color=GREY, ha="right",
                va="bottom", fontsize=9,
            )  # fmt: skip
        axes.set_xlim(left=0)
        axes.margins(x=0.1)
        axes.set_xlabel(name)
    left.set_ylabel(f"{NDCG}, {MAIN} lists")
    for student in part.run.students if len(part.run.students) > 1 else []:
        left.plot([], [], _marker(student, part), color=GREY, label=f"student {student}")
    handles, names = left.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside upper left", ncols=min(3, len(names)))
    figure.set_figheight(4 + 0.2 * (len(names) // 3))
    return figure


def profile(part: Part) -> Figure:
    """Each layer's share of the teacher's Fisher (label of the model) before and after adaptation, with its standard
    error, of two measures that hardly depend on how a layer is parametrised, and what the normalisation parameters hold
    of the trace. The quarters that are compared are shaded."""
    rows = part.profile.filter(pl.col("kind") == FISHER)
    figure = Figure(figsize=(WIDTH, 7.5), layout="constrained")
    above, middle, below = figure.subplots(3, 1, sharex=True, height_ratios=[3, 2, 1])
    said = []
    error = {"ecolor": INK, "elinewidth": 0.8}
    states = [("base", "before adaptation", PALE, -0.2), ("adapted", "after adaptation", BLUE, 0.2)]
    for state, name, tint, aside in states:
        layers = rows.filter(pl.col("state") == state).sort("layer")
        at = layers["layer"] + aside
        above.bar(
            at, 100 * layers["share"], 0.4, color=tint, label=name, yerr=100 * layers["share_standard_error"],
            error_kw=error,
        )  # fmt: skip
        below.bar(at, 100 * layers["normalisation_share"], 0.4, color=tint)
        found = part.fisher[state][FISHER]
        without = found["upper_lower_quarter_without_last"]
        said.append(f"{found['upper_lower_quarter']:.2g} {name} ({without:.2g} without the last layer)")
    layers = rows.filter(pl.col("state") == "adapted").sort("layer")
    for column, name, tint, aside in (
        ("relative", "relative to the weights", GREY, -0.2),
        ("state_fisher", "of the state", ORANGE, 0.2),
    ):
        middle.bar(
            layers["layer"] + aside, 100 * layers[f"{column}_share"], 0.4, color=tint, label=name,
            yerr=100 * layers[f"{column}_share_standard_error"], error_kw=error,
        )  # fmt: skip
    count = int(rows["layer"].to_numpy().max())
    shaded = max(1, count // 4)
    for start in (0, count - shaded):
        above.axvspan(start + 0.5, start + shaded + 0.5, color=GREY, alpha=0.12, linewidth=0, zorder=0)
    above.set_title("Upper quarter of the layers over the lower (shaded):\n" + ", ".join(said))
    above.set_ylabel("share of the trace (%)")
    middle.set_ylabel("after adaptation (%)")
    below.set(xlabel="teacher layer", ylabel="of the trace nor-\nmalisation (%)", xlim=(0.3, count + 0.7))
    for axes in (above, middle):
        axes.legend()
    for axes in (above, middle, below):
        axes.grid(axis="x", visible=False)
    return figure


def data(found: Mapping[str, Any]) -> Figure:
    """Users by the number of their positives; training positives of the items by rank."""
    users, items, median = found["histogram"], found["popularity"], found["history_length"]["median"]
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.stairs(users["users"], users["edges"], fill=True, color=BLUE, edgecolor="white", linewidth=0.5)
    left.axvline(median, color=ORANGE)
    left.annotate(f" median {median:g}", (median, 1.01), xycoords=("data", "axes fraction"), color=ORANGE)
    left.set(xlabel="positives of a user, logarithmic", ylabel="users")
    right.plot(items["rank"], items["count"], color=BLUE, linewidth=2)
    note = (
        f"most popular tenth: {items['top_tenth']:.0%} of all\nwithout any: {found['items_without_train_positive']:,}"
    )
    right.annotate(note, (0.03, 0.05), xycoords="axes fraction", color=GREY)
    right.set(xlabel="rank of the item, logarithmic", ylabel="training positives, logarithmic")
    for axis, steps in ((left.xaxis, (1, 2, 5)), (right.xaxis, (1,)), (right.yaxis, (1, 2, 5))):
        getattr(axis.axes, f"set_{axis.axis_name}scale")("log")
        axis.set_major_locator(LogLocator(subs=steps))
        axis.set_major_formatter("{x:,.0f}")
        axis.set_minor_formatter(NullFormatter())
    return figure


def _first_seed(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("seed") == pl.col("seed").min())


def weights(frames: Mapping[str, pl.DataFrame]) -> Figure:
    """The layer weights that each strategy starts with, one panel a strategy."""
    # the proposed method starts from the weights that the fixed ones keep
    names = [m for m in frames if not m.endswith(f"/{PROPOSED}")] or list(frames)
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    figure = Figure(figsize=(WIDTH, 2.1 * lines), layout="constrained")
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes, name in zip(grid.flat, names, strict=False):
        first = _first_seed(frames[name]).filter(pl.col("step") == pl.col("step").min()).sort("layer")
        axes.bar(first["layer"], 100 * first["weight"], color=colour(name))
        axes.set_title(short(name))
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
    scale = LogNorm(values[values > 0].min(), values.max(), clip=True)
    mesh = left.pcolormesh(steps, layers, values, cmap="viridis", shading="nearest", norm=scale, rasterized=True)
    left.grid(visible=False)
    bar = figure.colorbar(mesh, ax=left, label="weight (%), logarithmic", format="{x:g}")
    bar.ax.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
    bar.ax.yaxis.set_minor_formatter("{x:g}")
    left.set(xlabel="optimiser step", ylabel="teacher layer", title="weights over the steps")
    right.bar(layers - 0.2, values[:, 0], 0.4, color=PALE, label="start")
    right.bar(layers + 0.2, values[:, -1], 0.4, color=BLUE, label=f"step {steps[-1]:,}")
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


def training(part: Part, student: str) -> Figure:
    """Validation and losses of a shape's students and of the teacher."""
    curves = {m: frame for m, frame in part.curves.items() if m.startswith(f"{student}/")}
    figure = Figure(figsize=(WIDTH, 6), layout="constrained")
    (validation, labels), (layers, teacher) = figure.subplots(2, 2)
    for axes, column, title in (
        (validation, "validation_ndcg_10", f"students: validation {NDCG}"),
        (labels, "labels", "students: loss on the labels"),
        (layers, "layers", "students: layer loss, weighted by strategy"),
    ):
        for model in ordered(curves, part.run):
            if column in curves[model].columns:
                _curve(axes, curves[model], column, short(model), colour(model))
        axes.set_title(title)
    _curve(teacher, part.curves["teacher"], "loss", "loss", GREY)
    teacher.set_title(f"teacher: loss (left) and validation {NDCG} (right)")
    twin = teacher.twinx()
    _curve(twin, part.curves["teacher"], "validation_ndcg_10", "validation", INK)
    twin.spines["right"].set_visible(True)
    twin.grid(visible=False)
    for axes in (layers, teacher):
        axes.set_xlabel("optimiser step")
    handles, names = validation.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4)
    return figure
