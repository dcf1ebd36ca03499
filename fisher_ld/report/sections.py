"""The sections of one data set: quality, speed, Fisher information, training, comparisons, data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.experiments.peers import smallest_equal
from fisher_ld.experiments.results import Part
from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text
from fisher_ld.report.families import families
from fisher_ld.report.findings import span
from fisher_ld.report.names import METRIC_LABELS, label, learned_from, ordered, short
from fisher_ld.report.recipe import outcome

Pictures = Mapping[str, str]  # SVG by name, see `charts`
# What was timed: column, ratio to the teacher, value.
TIMED: Sequence[tuple[str, str, Callable[[Mapping[str, Any]], str]]] = (
    ("queries/s", "throughput", lambda row: f"{row['queries_per_second']:.1f}"),
    ("p50 ms", "latency_p50", lambda row: f"{row['latency_p50_ms']:.0f}"),
    ("p95 ms", "latency_p95", lambda row: f"{row['latency_p95_ms']:.0f}"),
    ("parameters M", "parameters", lambda row: f"{row['parameters']['total'] / 1e6:.1f}"),
    ("of them body M", "body_parameters", lambda row: f"{row['parameters']['body'] / 1e6:.1f}"),
    ("disk MiB", "size_on_disk", lambda row: f"{row['size_bytes'] / 2**20:,.0f}"),
    ("peak MiB", "peak_memory", lambda row: _number(row["memory"], "peak_mib", ",.0f")),
    ("J/query", "energy", lambda row: _number(row, "joules_per_query", ".2f")),
)
FISHER = {
    "upper / lower quarter": ("upper_lower_quarter", ".2f"),
    "the same without the last layer": ("upper_lower_quarter_without_last", ".2f"),
    "last layer's share": ("last_layer_share", ".1%"),
    "share of the normalisation weights": ("normalisation_share", ".1%"),
    "stability of the ranking": ("rank_stability", ".3f"),
}
GROUPS = {"main": "Who is above whom", "strategies": "Does it matter which layer gets which weight?"}


def title(part: Part, student: str | None, level: int = 3) -> list[Block]:
    """Only where there are several students."""
    return [Heading(f"Student {student}", level)] if student and len(part.run.students) > 1 else []


def _named(part: Part, student: str, method: str) -> str:
    return short(method) + ("" if len(part.run.students) == 1 else f" ({student})")


def _mean(cell: Mapping[str, float] | None) -> Cell:
    return (f"{cell['mean']:.3f}", f"{cell['low']:.3f} to {cell['high']:.3f}") if cell else "not measured"


def _number(row: Any, key: str, form: str) -> str:
    """What is no number says why itself."""
    value = row[key] if isinstance(row, Mapping) else row
    return value if isinstance(value, str) else f"{value:{form}}"


def quality(part: Part, pictures: Pictures) -> list[Block]:
    caption = f"NDCG@10 with 95% intervals on the {MAIN} lists; the dotted line is chance."
    names = ordered(part.evaluate["quality"][MAIN], part.run)
    informed = [model for model in names if learned_from(model) == "all"]
    header = ["model", "labels", *METRIC_LABELS.values(), "users", "kept of the teacher", "NDCG@10 by seed"]
    blocks = [
        Heading("Quality"),
        Picture("NDCG@10 of every model", pictures["quality"], caption),
        Table(header, [_quality(part, model) for model in names if model not in informed], words=(0, 1)),
    ]
    if informed:
        rows = [_quality(part, model)[:-2] for model in informed]
        blocks += [Heading("Rivals with all labels", 3), Table(header[:-2], rows, words=(0, 1))]
    return [*blocks, *families(part)]


def _quality(part: Part, model: str) -> list[Cell]:
    found, kept = part.evaluate["quality"][MAIN][model], part.evaluate["retained"][MAIN].get(model)
    means = [_mean(found.get(metric)) for metric in METRIC_LABELS]
    runs = part.evaluate["seeds"][MAIN].get(model, [])
    by_seed = " ".join(f"{v:.3f}" for v in runs) if len(runs) > 1 else ""
    share = (f"{kept['share']:.1%}", f"{kept['low']:.1%} to {kept['high']:.1%}") if kept else ""
    return [label(model, part.run), learned_from(model), *means, f"{found['ndcg_10']['n']:,}", share, by_seed]


def speed(part: Part, method: str, pictures: Pictures) -> list[Block]:
    caption = "Quality against speed and against size; students of one architecture are drawn side by side."
    alt = "NDCG@10 against throughput and parameters"
    blocks: list[Block] = [Heading("Quality against speed"), Picture(alt, pictures["tradeoff"], caption)]
    for student, found in part.efficiency.items():
        rows = []
        largest_first = sorted(found["models"].items(), key=lambda entry: -entry[1]["parameters"]["total"])
        for timed, row in largest_first:
            model = paths.student(student, method) if timed == student else timed
            rows.append([label(model, part.run), _mean(part.quality(model)), *(value(row) for _, _, value in TIMED)])
        text = (
            f"Measured side by side in one process on {found['device']} in {found['precision']} with "
            f"{found['threads']} threads. Latency is of {found['queries']} queries of {found['candidates']:.0f} "
            "candidates. All methods of a shape have one architecture. "
            f"Energy counter: {found['energy_counter']}."
        )
        columns = [column for column, *_ in TIMED]
        blocks += title(part, student)
        blocks += [_times(part, paths.student(student, method), columns)]
        blocks += [Table(["model", "NDCG@10", *columns], rows), Text(text)]
    return blocks


def _times(part: Part, model: str, columns: Sequence[str]) -> Table:
    """How many times better than the teacher, and than the smallest model of equal quality, the student is."""
    student, peer = model.split("/")[0], smallest_equal(part, model)
    found = part.efficiency[student]
    ratios, between = found["ratios"][student], found["intervals"][student]
    rows: list[list[Cell]] = [["teacher", *(_ratio(ratios, between, name) for _, name, _ in TIMED)]]
    if peer and peer.model != "teacher":
        what = label(peer.model, part.run), f"the smallest model as good ({peer.quality})"
        rows.append([what, *(_ratio(peer.times, {}, name) for _, name, _ in TIMED)])
    return Table(["times better than", *columns], rows)


def _ratio(times: Mapping[str, float], between: Mapping[str, Any], name: str) -> Cell:
    if name not in times:
        return ""
    text, row = f"{times[name]:.2f}x", between.get(name)
    return (text, f"{row['low']:.2f} to {row['high']:.2f}") if row else text


def layers(part: Part, method: str, pictures: Pictures) -> list[Block]:
    rows = []
    for state, name in (("base", "before adaptation"), ("adapted", "after adaptation")):
        for kind in ("true", "empirical"):
            row = part.fisher[state][kind]
            total = sum(layer["trace"] for layer in row["layers"])
            outside = [f"{row['outside'][place]['trace'] / total:.1%}" for place in ("embedding", "head")]
            values = [f"{row[key]:{form}}" for key, form in FISHER.values()]
            rows.append([f"{name}, {kind} Fisher", *values, *outside])
    caption = "Share of the Fisher trace that each layer of the teacher holds, before and after adaptation."
    blocks: list[Block] = [
        Heading("Where the Fisher information is"),
        Picture("Fisher profile of the layers", pictures["profile"], caption),
        Table(["state", *FISHER, "embedding / all layers", "head / all layers"], rows),
    ]
    if "weights" in pictures:
        caption = "What each strategy starts from; all sum to 1, so that no strategy has a stronger layer loss."
        blocks += [Heading("Layer weights", 3), Picture("Weights of each strategy", pictures["weights"], caption)]
    for student in part.run.students:
        name = _named(part, student, method)
        if part.changing(paths.student(student, method)):
            caption = f"{name}: dynamic weights (Eq. 9) during distillation, first seed."
            blocks.append(Picture("Layer weights over the steps", pictures[f"{student}/trajectory"], caption))
        else:
            blocks.append(Text(f"The weights of {name} (Eq. 9) were not updated in this run."))
    return blocks


def training(part: Part, list_weight: float, pictures: Pictures) -> list[Block]:
    caption = "Validation and losses over the optimiser steps, means over seeds; long curves are running medians."
    drawn = [Picture(f"Training, students {s}", pictures[f"{s}/training"], caption) for s in part.run.students]
    text = (
        f"The students' label term is BCE in Eq. 7. Here a share of {list_weight:g} of it (distill.list_weight) is a "
        "softmax over the list, which Eq. 7 does not have."
    )
    return [*outcome(part), *drawn, Text(text)]


def compared(part: Part) -> list[Block]:
    """All comparisons, by the groups within which Holm's correction was made."""
    blocks: list[Block] = []
    for group, heading in GROUPS.items():
        blocks += [Heading(heading), *([Text(_strategies(part))] if group == "strategies" else [])]
        for student in (None, *part.run.students):
            if rows := part.comparisons(student, group):
                blocks += [*title(part, student), _differences(part, rows)]
    note = (
        "Differences in NDCG@10 over the same users; p by a randomisation test, after Holm over the comparisons of a "
        f"table. Any other can be made from {part.paths.per_user}."
    )
    return [*blocks, Text(note)]


def _strategies(part: Part) -> str:
    first = [m for m in ordered(part.weights, part.run) if m.startswith(f"{part.run.students[0]}/")]
    fixed, changing = ("; ".join(short(m) for m in first if part.changing(m) is changed) for changed in (False, True))
    text = f"One student, one data order, one step budget; the layer weights differ. Fixed in training: {fixed}."
    return f"{text} Changed in training (Eq. 9): {changing}." if changing else text


def _differences(part: Part, comparisons: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in comparisons:
        names, effect = (label(row[side], part.run) for side in "ab"), "" if row["d"] is None else f"{row['d']:+.2f}"
        by_seed = " ".join(f"{value:+.3f}" for value in row["by_seed"])
        rows.append([*names, span(row, sign=True), effect, f"{row['p_holm']:.2g}", by_seed, row["verdict"]])
    return Table(["A", "B", "A minus B", "Cohen's d", "p", "by seed", "A is"], rows, words=(0, 1, 6))


def data(part: Part, pictures: Pictures) -> list[Block]:
    found = part.data
    filters = [[s["step"], f"{s['users']:,}", f"{s['items']:,}", f"{s['interactions']:,}"] for s in found["filters"]]
    lost, lengths, rejected = found["lost"], found["history_length"], found["rejected"]
    lists = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in found["lists"].items())
    text = (
        f"Up to the k-core the filters drop {lost['users']:.1%} of the users, {lost['items']:.1%} of the items and "
        f"{lost['interactions']:.1%} of the interactions; sparsity {found['sparsity']['after']:.2%}. A user has "
        f"{lengths['median']:.0f} positives in the median, {lengths['min']:.0f} to {lengths['max']:.0f}. Rows "
        f"that could not be read: {rejected['rows']:,} ({rejected['share']:.2%}). Lists: {lists}."
    )
    return [
        Heading("Data"),
        Text(text),
        Table(["after", "users", "items", "interactions"], filters),
        Picture("The data", pictures["data"], "How many items a user likes; how the likes are spread over the items."),
    ]
