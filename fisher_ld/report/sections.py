"""The sections of one data set: quality, speed, Fisher information, training, comparisons, data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fisher_ld.batches.lists import FAMILIES
from fisher_ld.config import paths
from fisher_ld.experiments.results import MAIN, Part
from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text
from fisher_ld.report.findings import share, span
from fisher_ld.report.names import METRIC_LABELS, label, ordered, short

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


def quality(part: Part, method: str, pictures: Pictures) -> list[Block]:
    caption = "NDCG@10 with 95% intervals on the popularity lists; the dotted line is chance."
    blocks: list[Block] = [Heading("Quality"), Picture("NDCG@10 of every model", pictures["quality"], caption)]
    for family in FAMILIES:
        models, seeds = part.evaluate["quality"][family], part.evaluate["seeds"][family]
        names = ordered(models, part.run)
        rows = []
        for model in names:
            means = [_mean(models[model].get(metric)) for metric in METRIC_LABELS]
            by_seed = " ".join(f"{v:.3f}" for v in seeds.get(model, []) if len(seeds[model]) > 1)
            rows.append([label(model, part.run), *means, f"{models[model]['ndcg_10']['n']:,}", by_seed])
        drawn = "by popularity (hard, the main one)" if family == MAIN else "uniformly"
        strong = [names.index(paths.student(student, method)) for student in part.run.students]
        header = ["model", *METRIC_LABELS.values(), "users", "NDCG@10 by seed"]
        blocks += [Heading(f"Lists whose negatives are drawn {drawn}", 3), Table(header, rows, strong=strong)]
        for student in part.run.students:
            kept = share(part.evaluate["retained"][family][paths.student(student, method)])
            text = f"{_named(part, student, method)} keeps {kept} of the teacher's NDCG@10 on these lists."
            blocks.append(Text(text))
    return blocks


def speed(part: Part, method: str, pictures: Pictures) -> list[Block]:
    caption = "Quality against speed and against size; students of one architecture are drawn side by side."
    alt = "NDCG@10 against throughput and parameters"
    blocks: list[Block] = [Heading("Quality against speed"), Picture(alt, pictures["tradeoff"], caption)]
    for student, found in part.efficiency.items():
        rows = []
        largest_first = sorted(found["models"].items(), key=lambda entry: -entry[1]["parameters"]["total"])
        for timed, row in largest_first:
            model = paths.student(student, method) if timed == student else timed
            times = found["ratios"].get(timed, {})
            values = [(value(row), f"{times[name]:.2f}x") if name in times else value(row) for _, name, value in TIMED]
            rows.append([label(model, part.run), _mean(part.quality(model)), *values])
        text = (
            "Small: how many times better than the teacher. A student is worth its distillation where the teacher's "
            "own first layers, adapted alone, are not as good. All methods of a shape have one architecture. "
            f"Measured side by side in one process on {found['device']} in {found['precision']} with "
            f"{found['threads']} threads: latency of {found['queries']} queries of {found['candidates']:.0f} "
            f"candidates, throughput of {found['throughput_queries']}. Energy counter: {found['energy_counter']}."
        )
        blocks += title(part, student)
        blocks += [Heading("The teacher, its truncation, the student", 3)]
        blocks += [Table(["", "NDCG@10", *(column for column, *_ in TIMED)], rows), Text(text)]
    return blocks


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
    rows = []
    for name in ordered(part.fits, part.run):
        fits = part.fits[name]
        best = ", ".join(f"{fit['best_step']:,}" for fit in fits)
        values = " ".join(f"{fit['validation_ndcg_10']:.3f}" for fit in fits)
        rows.append([label(name, part.run), f"{fits[0]['steps']:,}", best, values])
    text = (
        f"The students' label term is BCE in Eq. 7. Here a share of {list_weight:g} of it (distill.list_weight) is a "
        "softmax over the list, which Eq. 7 does not have."
    )
    header = ["model", "steps", "its weights are of step", "validation NDCG@10 there"]
    return [Heading("Training"), *drawn, Table(header, rows), Text(text)]


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
