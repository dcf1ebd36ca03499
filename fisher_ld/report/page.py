"""The report's contents, in order: summary, quality, speed, layers, training, ablation, the paper, data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fisher_ld.core.files import atomic_path
from fisher_ld.report import paper
from fisher_ld.report.charts import charts
from fisher_ld.report.compare import beside
from fisher_ld.report.findings import findings, headline, share, span
from fisher_ld.report.inputs import FAMILIES, MAIN, METRIC_LABELS, PRIMARY, STUDENT, Results, label, ordered
from fisher_ld.report.page import Block, Cell, Heading, Picture, Table, Text, html, markdown

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


def write_report(results: Results, list_weight: float, folder: Path) -> None:
    """report.md and report.html in `folder`. `list_weight`: distill.list_weight."""
    blocks = document(results, list_weight)
    for name, text in (("report.md", markdown(TITLE, blocks)), ("report.html", html(TITLE, blocks))):
        with atomic_path(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")


def document(results: Results, list_weight: float) -> list[Block]:
    pictures = charts(results)
    return [
        *_summary(results),
        *_quality(results, pictures),
        *_speed(results, pictures),
        *_layers(results, pictures),
        *_training(results, list_weight, pictures),
        *_ablation(results),
        *_paper(results),
        *_data(results),
    ]


def _drawn(pictures: Mapping[str, str], name: str, alt: str, caption: str) -> Picture:
    return Picture(alt, pictures[name].encode(), "svg+xml", caption)


def _summary(results: Results) -> list[Block]:
    found = findings(results)
    rows = [[f.question, f.answer, f.text] for f in found.values()]
    users = results.evaluate["quality"][MAIN][STUDENT][PRIMARY]["n"]
    note = (
        f"All on {users:,} test users, lists of one liked item among others drawn by popularity. Brackets are 95% "
        "bootstrap intervals over users. “Not shown” means that the data do not tell, not that there is no difference. "
        f"{_seeds_note(results)}"
    )
    lead: list[Block] = [Text(text, lead=True) for text in headline(results, found)]
    return [*lead, Table(["Question", "Answer", "Evidence"], rows, words=(0, 1, 2)), Text(note)]


def _seeds_note(results: Results) -> str:
    count = len(results.distill[STUDENT]["seeds"])
    if count == 1:
        return (
            "One training seed a student: the intervals do not hold what another run of the same training would give."
        )
    return (
        f"Students are trained {count} times, with {count} seeds: a student's value is the mean over them, and its "
        "intervals hold their spread as well."
    )


def _quality(results: Results, pictures: Mapping[str, str]) -> list[Block]:
    blocks: list[Block] = [Heading("Quality")]
    caption = "NDCG@10 with 95% intervals on the popularity lists; the dotted line is chance."
    blocks.append(_drawn(pictures, "quality", "NDCG@10 of every model", caption))
    for family in FAMILIES:
        models = results.evaluate["quality"][family]
        names = ordered(models)
        rows = [[label(m), *(_mean(models[m].get(k)) for k in METRIC_LABELS), _users(models[m])] for m in names]
        drawn = "by popularity (hard, the main one)" if family == MAIN else "uniformly"
        blocks.append(Heading(f"Lists whose negatives are drawn {drawn}", 3))
        blocks.append(Table(["model", *METRIC_LABELS.values(), "users"], rows, strong=[names.index(STUDENT)]))
        kept = results.evaluate["retained"][family][STUDENT]
        blocks.append(Text(f"Fisher-LD keeps {share(kept)} of the teacher's NDCG@10 on these lists."))
    if seeds := results.evaluate["seeds"][MAIN]:
        header = ["student", *(f"seed {i}" for i in range(len(seeds[STUDENT]))), "largest minus smallest"]
        rows = [[label(m), *(f"{v:.3f}" for v in (*seeds[m], max(seeds[m]) - min(seeds[m])))] for m in ordered(seeds)]
        blocks += [Heading("NDCG@10 of each training seed, popularity lists", 3), Table(header, rows)]
    blocks.append(Heading("Who is above whom", 3))
    rows = results.evaluate["comparisons"][MAIN]
    note = (
        f"Differences in NDCG@10 over the same users; p by a randomisation test, after Holm over these {len(rows)} "
        "comparisons. Any other can be made from data/scores/per_user.parquet."
    )
    blocks += [Text(note), _differences(rows)]
    return blocks


def _mean(cell: Mapping[str, float] | None) -> Cell:
    if cell is None:
        return "not measured"
    return f"{cell['mean']:.3f}", f"{cell['low']:.3f} to {cell['high']:.3f}"


def _users(row: Mapping[str, Mapping[str, float]]) -> str:
    return f"{row[PRIMARY]['n']:,}"


def _differences(comparisons: list[dict[str, Any]]) -> Table:
    rows = [
        [
            label(row["a"]),
            label(row["b"]),
            span(row, sign=True),
            "" if row["d"] is None else f"{row['d']:+.2f}",
            f"{row['p_holm']:.2g}",
            " ".join(f"{value:+.3f}" for value in row["by_seed"]),
            row["verdict"],
        ]
        for row in comparisons
    ]
    header = ["A", "B", "A minus B", "Cohen's d", "p", "by seed", "A is"]
    return Table(header, rows, words=(0, 1, 6))


def _group(names: list[str]) -> str:
    if len(names) == 1:
        return label(names[0])
    return f"{len(names)} students of one architecture"


def _speed(results: Results, pictures: Mapping[str, str]) -> list[Block]:
    found = results.evaluate["efficiency"]
    shown = [name for name in RATIOS if any(name in row for row in found["ratios"].values())]
    ratios = [
        [_group(found["models"][m]["stands_for"]), *(f"{row[k]:.2f}x" if k in row else "" for k in shown)]
        for m, row in found["ratios"].items()
    ]
    values = []
    for row in found["models"].values():
        memory, joules = row["memory"], row["joules_per_query"]
        values.append(
            [
                _group(row["stands_for"]),
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
    where = (
        f"Measured side by side in one process on {found['device']} in {found['precision']} with {found['threads']} "
        f"threads: {found['queries']} queries of {found['candidates']:.0f} candidates. "
        f"Energy counter: {found['energy_counter']}."
    )
    caption = "Quality against speed and against size; students of one architecture are drawn side by side."
    return [
        Heading("Quality against speed"),
        _drawn(pictures, "tradeoff", "NDCG@10 against throughput and parameters", caption),
        Heading("Efficiency, times better than the teacher", 3),
        Table(["", *(RATIOS[name] for name in shown)], ratios),
        Heading("The values behind the ratios", 3),
        Table(header, values),
        Text(where),
    ]


def _layers(results: Results, pictures: Mapping[str, str]) -> list[Block]:
    rows = []
    for state, name in (("base", "before adaptation"), ("adapted", "after adaptation")):
        for kind in ("true", "empirical"):
            row = results.fisher[state][kind]
            layers = sum(layer["trace"] for layer in row["layers"])
            outside = [f"{row['outside'][part]['trace'] / layers:.1%}" for part in ("embedding", "head")]
            rows.append(
                [
                    f"{name}, {kind} Fisher",
                    f"{row['upper_lower_quarter']:.2f}",
                    f"{row['upper_lower_quarter_without_last']:.2f}",
                    f"{row['last_layer_share']:.1%}",
                    f"{row['norms_share']:.1%}",
                    f"{row['rank_stability']:.3f}",
                    *outside,
                ]
            )
    header = [
        "state", "upper / lower quarter", "the same without the last layer", "last layer's share",
        "share of the norm weights", "stability of the ranking", "embedding / all layers", "head / all layers",
    ]  # fmt: skip
    profile = "Share of the Fisher trace that each layer of the teacher holds, before and after adaptation."
    blocks: list[Block] = [
        Heading("Where the Fisher information is"),
        Picture("Fisher profile of the layers", results.pictures["fisher"], "png", profile),
        Table(header, rows),
        *_quiet_start(results.quiet_above()),
        Heading("Layer weights", 3),
        _drawn(
            pictures,
            "weights",
            "Layer weights of each strategy",
            "The weights that each strategy starts from; all sum to 1, so that no strategy has a stronger layer loss.",
        ),
    ]
    if "trajectory" in pictures:
        caption = "Fisher-LD's dynamic weights (Eq. 9) during distillation, first seed."
        blocks.append(_drawn(pictures, "trajectory", "Layer weights over the steps", caption))
    else:
        blocks.append(Text("The dynamic weights (Eq. 9) were not updated in this run: too few steps."))
    return blocks


def _quiet_start(first: int | None) -> list[Block]:
    """What the profile of a teacher whose first layers were adapted first owes to how those above start."""
    if first is None:
        return []
    text = (
        f"The first {first} layers were adapted before those above, which then started at a tenth of what they add to "
        "their input. A trace depends on how layers are parametrised, and this start changes that: the profile after "
        "adaptation shows it as much as what was learned."
    )
    return [Text(text)]


def _training(results: Results, list_weight: float, pictures: Mapping[str, str]) -> list[Block]:
    runs = {"teacher": results.teacher, **results.distill}
    rows = []
    for name in ordered(runs):
        fits = runs[name].get("seeds", [runs[name]])
        best = ", ".join(f"{fit['best_step']:,}" for fit in fits)
        scores = " ".join(f"{fit['validation_ndcg_10']:.3f}" for fit in fits)
        rows.append([label(name), f"{fits[0]['steps']:,}", best, scores])
    caption = "Validation and losses over the optimiser steps, means over seeds; long curves are running medians."
    return [
        Heading("Training"),
        _drawn(pictures, "training", "Training curves", caption),
        Table(["model", "steps", "its weights are of step", "validation NDCG@10 there"], rows),
        Text(
            f"The students' label term is BCE in Eq. 7. Here a share of {list_weight:g} of it (distill.list_weight) is "
            "a softmax over the list, which Eq. 7 does not have."
        ),
    ]


def _ablation(results: Results) -> list[Block]:
    metrics = ("ndcg_10", "ndcg_5", "mrr")
    quality = results.ablations["quality"][MAIN]
    rows = []
    names = [m for m in ordered(quality) if m != "chance"]
    for model in names:
        against = results.comparison(model, "uniform")
        gain: list[Cell] = [span(against, sign=True), against["verdict"]] if against else ["", ""]
        rows.append([label(model), *(_mean(quality[model].get(k)) for k in metrics), *gain])
    header = ["strategy", *(METRIC_LABELS[k] for k in metrics), "NDCG@10 minus uniform", "above uniform"]
    order = [
        row
        for row in results.ablations["comparisons"][MAIN]
        if row["b"] != "uniform"  # those with uniform stand in the table above
    ]
    blocks: list[Block] = [
        Heading("Does it matter which layer gets which weight? (Table III)"),
        Text(_weighting(results, names)),
        Table(header, rows, strong=[names.index(STUDENT)] if STUDENT in names else (), words=(0, 5)),
    ]
    if order:
        blocks += [Heading("Fisher weights against their own controls", 3), _differences(order)]
    return blocks


def _weighting(results: Results, names: list[str]) -> str:
    fixed, changing = (
        "; ".join(label(m).removeprefix("student, ") for m in names if results.changing(m) is changed)
        for changed in (False, True)
    )
    text = f"One student, one data order, one step budget; the layer weights differ. Fixed in training: {fixed}."
    return f"{text} Changed in training (Eq. 9): {changing}." if changing else text


def _paper(results: Results) -> list[Block]:
    rows = [[row.where, row.what, row.paper, row.ours, row.verdict, row.reason] for row in beside(results)]
    note = (
        "“Reproduced” where the whole of our interval shows at least what the paper claims. Its tables' gains are in "
        "NDCG@5, ours beside them in NDCG@10, the metric that is tested under Holm. Absolute values are of other data "
        "and other models. "
        f"{paper.REPOSITORY_NOTE}"
    )
    header = ["in the paper", "number", "paper", "ours", "verdict", "why"]
    return [Heading("The paper's number beside ours"), Text(note), Table(header, rows, words=(0, 1, 2, 3, 4, 5))]


def _data(results: Results) -> list[Block]:
    data = results.data
    filters = [[s["step"], f"{s['users']:,}", f"{s['items']:,}", f"{s['interactions']:,}"] for s in data["filters"]]
    lost, lengths, rejected = data["lost"], data["history_length"], data["rejected"]
    lists = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in data["lists"].items())
    text = (
        f"Up to the k-core the filters drop {lost['users']:.1%} of the users, {lost['items']:.1%} of the items and "
        f"{lost['interactions']:.1%} of the interactions; sparsity {data['sparsity']['after']:.2%}. A user has "
        f"{lengths['median']:.0f} positives in the median, {lengths['min']:.0f} to {lengths['max']:.0f}. Rows "
        f"that could not be read: {rejected['rows']:,} ({rejected['share']:.2%}). Lists: {lists}."
    )
    captions = {
        "history_lengths": "How many items a user likes.",
        "item_popularity": "How the likes are spread over the items.",
    }
    return [
        Heading("Data"),
        Text(text),
        Table(["after", "users", "items", "interactions"], filters),
        *(Picture(name.replace("_", " "), results.pictures[name], "png", text) for name, text in captions.items()),
    ]
