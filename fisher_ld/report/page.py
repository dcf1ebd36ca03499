"""The page: for each data set and student what was found and from what, then the paper's tables and claims, and what
the run took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from fisher_ld.batches.lists import FAMILIES
from fisher_ld.config import paths
from fisher_ld.experiments.claims import doubt, judge
from fisher_ld.experiments.results import MAIN, Part, Results
from fisher_ld.experiments.tables import paper
from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text
from fisher_ld.report.charts import charts
from fisher_ld.report.findings import findings, headline, share, span
from fisher_ld.report.names import METRIC_LABELS, label, ordered, short
from fisher_ld.report.paper import claim_blocks, table_blocks

TITLE = "Fisher-LD: what the student gives for what it costs"
RATIOS = {
    "throughput": "throughput",
    "latency_p50": "latency p50",
    "latency_p95": "latency p95",
    "parameters": "parameters",
    "body_parameters": "parameters, body",
    "size_on_disk": "size on disk",
    "peak_memory": "peak memory",
    "energy": "energy",
}
GROUPS = {"main": "Who is above whom", "strategies": "Does it matter which layer gets which weight?"}


def document(results: Results, list_weight: float) -> list[Block]:
    """`list_weight`: distill.list_weight."""
    blocks: list[Block] = []
    for part in results.parts.values():
        if len(results.parts) == 1:
            blocks += part_blocks(part, results.method, list_weight)
        else:
            blocks.append(Heading(f"Data set {part.name}"))
            blocks += map(_deeper, part_blocks(part, results.method, list_weight))
    return [*blocks, *_paper(results), *_costs(results)]


def _deeper(block: Block) -> Block:
    return replace(block, level=block.level + 1) if isinstance(block, Heading) else block


def part_blocks(part: Part, method: str, list_weight: float) -> list[Block]:
    """All of one data set. `method`: the one that the report is about."""
    pictures = charts(part, method)
    return [
        *_summary(part, method),
        *_quality(part, method, pictures),
        *_speed(part, method, pictures),
        *_layers(part, method, pictures),
        *_training(part, list_weight, pictures),
        *_compared(part),
        *_data(part, pictures),
    ]


def _picture(pictures: Mapping[str, str], name: str, alt: str, caption: str) -> Picture:
    return Picture(alt, pictures[name], caption)


def _title(part: Part, student: str, level: int = 3) -> list[Block]:
    """Only where there are several students."""
    return [] if len(part.run.students) == 1 else [Heading(f"Student {student}", level)]


def _summary(part: Part, method: str) -> list[Block]:
    blocks: list[Block] = []
    for student in part.run.students:
        found = findings(part, student, method)
        blocks += _title(part, student, 2)
        blocks += [Text(text, lead=True) for text in headline(part, student, method, found)]
        rows = [[f.question, f.answer, f.text] for f in found.values()]
        blocks.append(Table(["Question", "Answer", "Evidence"], rows, words=(0, 1, 2)))
    users = part.evaluate["quality"][MAIN]["teacher"]["ndcg_10"]["n"]
    count = len(part.run.seeds)
    seeds = (
        "One training seed a student: the intervals do not hold what another run of the same training would give."
        if count == 1
        else f"Students are trained {count} times, with {count} seeds: a student's value is the mean over them, and "
        "its intervals hold their spread as well."
    )
    note = (
        f"All on {users:,} test users, lists of one liked item among others drawn by popularity. Brackets are 95% "
        "bootstrap intervals over users. “Not shown” means that the data do not tell, not that there is no difference. "
    )
    return [*blocks, Text(note + seeds)]


def _quality(part: Part, method: str, pictures: Mapping[str, str]) -> list[Block]:
    caption = "NDCG@10 with 95% intervals on the popularity lists; the dotted line is chance."
    blocks: list[Block] = [Heading("Quality"), _picture(pictures, "quality", "NDCG@10 of every model", caption)]
    proposed = [f"{student}/{method}" for student in part.run.students]
    for family in FAMILIES:
        models = part.evaluate["quality"][family]
        names = ordered(models, part.run)
        rows = [
            [label(m, part.run), *(_mean(models[m].get(k)) for k in METRIC_LABELS), f"{models[m]['ndcg_10']['n']:,}"]
            for m in names
        ]
        drawn = "by popularity (hard, the main one)" if family == MAIN else "uniformly"
        blocks.append(Heading(f"Lists whose negatives are drawn {drawn}", 3))
        strong = [names.index(model) for model in proposed]
        blocks.append(Table(["model", *METRIC_LABELS.values(), "users"], rows, strong=strong))
        for model in proposed:
            kept = share(part.evaluate["retained"][family][model])
            blocks.append(Text(f"{_named(model, part)} keeps {kept} of the teacher's NDCG@10 on these lists."))
    seeds = {model: values for model, values in part.evaluate["seeds"][MAIN].items() if len(values) > 1}
    if seeds:
        most = max(map(len, seeds.values()))
        header = ["model", *(f"run {i + 1}" for i in range(most)), "largest minus smallest"]
        rows = [
            [label(m, part.run), *(f"{v:.3f}" for v in seeds[m]), *[""] * (most - len(seeds[m])), _spread(seeds[m])]
            for m in ordered(seeds, part.run)
        ]
        blocks += [Heading("NDCG@10 of each training seed, popularity lists", 3), Table(header, rows)]
    return blocks


def _named(model: str, part: Part) -> str:
    return short(model) + _of(part, model.split("/")[0])


def _spread(values: Sequence[float]) -> str:
    return f"{max(values) - min(values):.3f}"


def _mean(cell: Mapping[str, float] | None) -> Cell:
    if cell is None:
        return "not measured"
    return f"{cell['mean']:.3f}", f"{cell['low']:.3f} to {cell['high']:.3f}"


def _speed(part: Part, method: str, pictures: Mapping[str, str]) -> list[Block]:
    caption = "Quality against speed and against size; students of one architecture are drawn side by side."
    blocks: list[Block] = [
        Heading("Quality against speed"),
        _picture(pictures, "tradeoff", "NDCG@10 against throughput and parameters", caption),
    ]
    for student, found in part.efficiency.items():
        blocks += _same_size(part, student, method, found)
        shown = [name for name in RATIOS if any(name in row for row in found["ratios"].values())]
        ratios = [
            [_timed(part, m, student), *(f"{row[k]:.2f}x" if k in row else "" for k in shown)]
            for m, row in found["ratios"].items()
        ]
        blocks += [
            Heading(f"Efficiency, times better than the teacher{_of(part, student)}", 3),
            Table(["", *(RATIOS[name] for name in shown)], ratios),
            Heading(f"The values behind the ratios{_of(part, student)}", 3),
            _values(part, student, found),
            Text(
                f"Measured side by side in one process on {found['device']} in {found['precision']} with "
                f"{found['threads']} threads: latency of {found['queries']} queries of {found['candidates']:.0f} "
                f"candidates, throughput of {found['throughput_queries']}. Energy counter: {found['energy_counter']}."
            ),
        ]
    return blocks


def _of(part: Part, student: str) -> str:
    return "" if len(part.run.students) == 1 else f" ({student})"


def _timed(part: Part, model: str, student: str) -> str:
    """All methods of a shape have one architecture: one was timed for all."""
    alone = "student" if len(part.run.students) == 1 else f"student {student}"
    return alone if model == student else label(model, part.run)


def _same_size(part: Part, student: str, method: str, found: Mapping[str, Any]) -> list[Block]:
    """What the truncated teacher says beside teacher and student."""
    cut = paths.truncated(part.gates[student]["truncated"]["depth"])
    rows = []
    for model, timed in (("teacher", "teacher"), (cut, cut), (f"{student}/{method}", student)):
        times = found["ratios"].get(timed, {"parameters": 1.0, "throughput": 1.0} if timed == "teacher" else None)
        size = [f"{1 / times['parameters']:.1%}", f"{times['throughput']:.1f}x"] if times else ["not measured"] * 2
        rows.append([label(model, part.run), _mean(part.quality(model)), *size])
    header = ["", "NDCG@10, popularity lists", "parameters, of the teacher's", "throughput"]
    text = "A student is worth its distillation where the teacher's own first layers, adapted alone, are not as good."
    return [
        Heading(f"The teacher, its truncation, the student{_of(part, student)}", 3),
        Table(header, rows),
        Text(text),
    ]


def _values(part: Part, student: str, found: Mapping[str, Any]) -> Table:
    rows = []
    for model, row in found["models"].items():
        memory, joules = row["memory"], row["joules_per_query"]
        rows.append(
            [
                _timed(part, model, student),
                f"{row['latency_p50_ms']:.0f}",
                f"{row['latency_p95_ms']:.0f}",
                (f"{row['queries_per_second']:.1f}", f"batch {row['best_batch']}"),
                f"{memory['peak_mib']:,.0f}" if isinstance(memory, dict) else memory,
                f"{row['parameters']['body'] / 1e6:.1f}",
                f"{row['parameters']['embedding'] / 1e6:.1f}",
                f"{row['size_bytes'] / 2**20:,.0f}",
                f"{joules:.2f}" if isinstance(joules, float) else joules,
            ]
        )
    header = ["", "p50 ms", "p95 ms", "queries/s", "peak MiB", "body M", "embedding M", "disk MiB", "J/query"]
    return Table(header, rows)


def _layers(part: Part, method: str, pictures: Mapping[str, str]) -> list[Block]:
    rows = []
    for state, name in (("base", "before adaptation"), ("adapted", "after adaptation")):
        for kind in ("true", "empirical"):
            row = part.fisher[state][kind]
            layers = sum(layer["trace"] for layer in row["layers"])
            outside = [f"{row['outside'][place]['trace'] / layers:.1%}" for place in ("embedding", "head")]
            rows.append(
                [
                    f"{name}, {kind} Fisher",
                    f"{row['upper_lower_quarter']:.2f}",
                    f"{row['upper_lower_quarter_without_last']:.2f}",
                    f"{row['last_layer_share']:.1%}",
                    f"{row['normalisation_share']:.1%}",
                    f"{row['rank_stability']:.3f}",
                    *outside,
                ]
            )
    header = [
        "state", "upper / lower quarter", "the same without the last layer", "last layer's share",
        "share of the normalisation weights", "stability of the ranking", "embedding / all layers", "head / all layers",
    ]  # fmt: skip
    caption = "Share of the Fisher trace that each layer of the teacher holds, before and after adaptation."
    blocks: list[Block] = [
        Heading("Where the Fisher information is"),
        _picture(pictures, "profile", "Fisher profile of the layers", caption),
        Table(header, rows),
    ]
    if "weights" in pictures:
        caption = "What each strategy starts from; all sum to 1, so that no strategy has a stronger layer loss."
        start = _picture(pictures, "weights", "Layer weights of each strategy", caption)
        blocks += [Heading("Layer weights", 3), start]
    for student in part.run.students:
        model = f"{student}/{method}"
        if part.changing(model):
            caption = f"{_named(model, part)}: dynamic weights (Eq. 9) during distillation, first seed."
            blocks.append(_picture(pictures, f"{student}/trajectory", "Layer weights over the steps", caption))
        else:
            blocks.append(Text(f"The weights of {_named(model, part)} (Eq. 9) were not updated in this run."))
    return blocks


def _training(part: Part, list_weight: float, pictures: Mapping[str, str]) -> list[Block]:
    rows = []
    for name in ordered(part.fits, part.run):
        fits = part.fits[name]
        best = ", ".join(f"{fit['best_step']:,}" for fit in fits)
        values = " ".join(f"{fit['validation_ndcg_10']:.3f}" for fit in fits)
        rows.append([label(name, part.run), f"{fits[0]['steps']:,}", best, values])
    blocks: list[Block] = [Heading("Training")]
    for student in part.run.students:
        caption = "Validation and losses over the optimiser steps, means over seeds; long curves are running medians."
        blocks.append(_picture(pictures, f"{student}/training", f"Training curves, students {student}", caption))
    return [
        *blocks,
        Table(["model", "steps", "its weights are of step", "validation NDCG@10 there"], rows),
        Text(
            f"The students' label term is BCE in Eq. 7. Here a share of {list_weight:g} of it (distill.list_weight) is "
            "a softmax over the list, which Eq. 7 does not have."
        ),
    ]


def _compared(part: Part) -> list[Block]:
    """All comparisons, by the groups within which Holm's correction was made."""
    blocks: list[Block] = []
    for group, title in GROUPS.items():
        blocks.append(Heading(title))
        if group == "strategies":
            blocks.append(Text(_strategies(part)))
        for student in (None, *part.run.students):
            if rows := part.comparisons(student, group):
                blocks += _title(part, student) if student else []
                blocks.append(_differences(part, rows))
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
    rows = [
        [
            label(row["a"], part.run),
            label(row["b"], part.run),
            span(row, sign=True),
            "" if row["d"] is None else f"{row['d']:+.2f}",
            f"{row['p_holm']:.2g}",
            " ".join(f"{value:+.3f}" for value in row["by_seed"]),
            row["verdict"],
        ]
        for row in comparisons
    ]
    return Table(["A", "B", "A minus B", "Cohen's d", "p", "by seed", "A is"], rows, words=(0, 1, 6))


def _data(part: Part, pictures: Mapping[str, str]) -> list[Block]:
    data = part.data
    filters = [[s["step"], f"{s['users']:,}", f"{s['items']:,}", f"{s['interactions']:,}"] for s in data["filters"]]
    lost, lengths, rejected = data["lost"], data["history_length"], data["rejected"]
    lists = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in data["lists"].items())
    text = (
        f"Up to the k-core the filters drop {lost['users']:.1%} of the users, {lost['items']:.1%} of the items and "
        f"{lost['interactions']:.1%} of the interactions; sparsity {data['sparsity']['after']:.2%}. A user has "
        f"{lengths['median']:.0f} positives in the median, {lengths['min']:.0f} to {lengths['max']:.0f}. Rows "
        f"that could not be read: {rejected['rows']:,} ({rejected['share']:.2%}). Lists: {lists}."
    )
    return [
        Heading("Data"),
        Text(text),
        Table(["after", "users", "items", "interactions"], filters),
        _picture(pictures, "histogram", "Users by positives", "How many items a user likes."),
        _picture(pictures, "popularity", "Positives by rank", "How the likes are spread over the items."),
    ]


def _paper(results: Results) -> list[Block]:
    run = results.run
    note = (
        f"Ours of {run.data[0]} and student {run.students[0]} where a table names no other; below it our interval and "
        "the paper's number. Absolute values are of other data, models and machines: compare the ratios. "
    )
    blocks: list[Block] = [Heading("The paper's tables, filled as far as this run goes"), Text(note + doubt())]
    for table in results.tables:
        blocks += table_blocks(table)
    return [*blocks, *claim_blocks(judge(claim, results) for claim in paper()["claims"])]


def _costs(results: Results) -> list[Block]:
    seconds = {stage: sum(cell["seconds"] for cell in cells) for stage, cells in results.costs.items()}
    rows = []
    for stage in sorted(seconds, key=lambda stage: -seconds[stage]):
        cells = results.costs[stage]
        peak = max(cell["peak_memory_mib"] for cell in cells)
        rows.append([stage, f"{len(cells):,}", f"{seconds[stage]:,.0f}", f"{peak:,.0f}"])
    total = f"{sum(seconds.values()):,.0f} seconds in all, cell after cell; the report itself is not counted."
    header = ["stage", "cells", "seconds in all", "peak MiB of a cell"]
    return [Heading("What the run took"), Table(header, rows), Text(total)]
