"""The sections of one data set: quality, calibration, speed, Fisher information, training, comparisons, data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import mean as average
from typing import Any

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.evaluation.calibration import BINS
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.experiments.peers import front, places, smallest_not_below
from fisher_ld.experiments.results import Part
from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text
from fisher_ld.report.families import families, mean, spread
from fisher_ld.report.names import METRIC_LABELS, label, learned_from, ordered, short
from fisher_ld.report.recipe import outcome, strengths

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
KINDS = {"model": "label of the model", "label": "label of the data", "list": "softmax over the list"}
FILTERED = ("users", "items", "interactions")
GROUPS = {
    "main": "Who is above whom",
    "claims": "Is Fisher-LD above what the paper says it is?",
    "peers": "Which smaller model is not shown below?",
    "strategies": "Does it matter which layer gets which weight?",
    "methods": "How do other methods compare with uniform layers?",
    "best": "How do methods compare with the best on validation lists?",
}


def title(part: Part, student: str | None, level: int = 3) -> list[Block]:
    """Only where there are several students."""
    return [Heading(f"Student {student}", level)] if student and len(part.run.students) > 1 else []


def _named(part: Part, student: str, method: str) -> str:
    return short(method) + ("" if len(part.run.students) == 1 else f" ({student})")


def _number(row: Any, key: str, form: str) -> str:
    """What is no number says why itself."""
    value = row[key] if isinstance(row, Mapping) else row
    return value if isinstance(value, str) else f"{value:{form}}"


def quality(part: Part, pictures: Pictures) -> list[Block]:
    caption = f"NDCG@10 with 95% intervals on the {MAIN} lists; the dotted line is chance."
    names = ordered(part.evaluate["quality"][MAIN], part.run)
    informed = [model for model in names if learned_from(model) == "all"]
    header = ["model", "labels", *METRIC_LABELS.values(), "users"]
    blocks = [
        Heading("Quality"),
        Picture("NDCG@10 of every model", pictures["quality"], caption),
        Table(header, [_quality(part, model) for model in names if model not in informed], words=(0, 1)),
    ]
    if informed:
        rows = [_quality(part, model) for model in informed]
        blocks += [Heading("Rivals with all labels", 3), Table(header, rows, words=(0, 1))]
    return [*blocks, *families(part)]


def _quality(part: Part, model: str) -> list[Cell]:
    found = part.evaluate["quality"][MAIN][model]
    means = [mean(found.get(metric)) for metric in METRIC_LABELS]
    return [label(model, part.run), learned_from(model), *means, f"{found['ndcg_10']['n']:,}"]


def calibration(part: Part, pictures: Pictures) -> list[Block]:
    """Log loss and calibration error of the scores as probabilities, before and after what validation lists fitted."""
    found = part.calibration
    fitted, tested = found["validation"], found["test"]
    names = ordered(found["models"], part.run)
    noise = average(run["with_bias"]["ece_by_chance"] for model in names for run in found["models"][model])
    learned = part.data["lists"]["labelled"] / part.data["examples"]["labelled"]
    columns = ("as scored", "temperature alone", "temperature and bias")
    header = ["model", *(f"log loss, {name}" for name in columns), *(f"calibration error, {name}" for name in columns)]
    caption = (
        f"Candidates of the {MAIN} lists in {BINS} bins of equal mass, first seed: what was predicted, and the share "
        "that was liked, with 95% intervals. The line is perfect calibration."
    )
    texts = (
        f"p = sigmoid(z / T + b) is the probability that a candidate of a {MAIN} list is the one that the user liked. "
        f"T and b have the lowest log loss on the {fitted['lists']:,} validation lists; they do not change the order. "
        f"Log loss and error are of the {tested['lists']:,} test lists, means over seeds. The error is the distance of "
        f"predicted and observed share, mean over the bins. Perfect probabilities would have {noise:.3f} of it by "
        f"chance. Saying the share of likes, {tested['share']:.1%}, of every candidate has log loss "
        f"{tested['log_loss']:.3f}.",
        f"Scores were learned from lists of which {learned:.1%} is liked. A temperature alone can reach another share "
        "only by stretching all scores. The bias takes that over, and T above 1 then says that scores are too sure.",
        "Validation lists are made as the main test lists are, with negatives matched in popularity, of other items "
        "that the users liked. Their share of likes was chosen: where another share s is liked, add logit(s) - "
        f"logit({fitted['share']:g}) to z / T + b. Candidates that are drawn otherwise, such as the best of a first "
        "stage, are other questions, for which nothing was fitted.",
    )
    return [
        Heading("Are the scores probabilities?"),
        Picture("Predicted and observed shares of likes", pictures["reliability"], caption),
        Table(header, [_calibration(part, model) for model in names]),
        *map(Text, texts),
    ]


def _calibration(part: Part, model: str) -> list[Cell]:
    runs = part.calibration["models"][model]
    scalings = {kind: [run[kind] for run in runs] for kind in ("as_scored", "temperature", "with_bias")}

    def every(kind: str, key: str, name: str) -> str:
        values = [scaling[key] for scaling in scalings[kind]]
        return f"{name} = {spread(values, '.2f') or f'{values[0]:.2f}'}"

    below = {
        "temperature": [every("temperature", "temperature", "T")],
        "with_bias": [every("with_bias", "temperature", "T"), every("with_bias", "bias", "b")],
    }
    losses = [(f"{average(s['log_loss'] for s in found):.3f}", *below.get(k, [])) for k, found in scalings.items()]
    errors = [f"{average(s['ece'] for s in found):.3f}" for found in scalings.values()]
    return [label(model, part.run), *losses, *errors]


def speed(part: Part, method: str, pictures: Pictures) -> list[Block]:
    caption = (
        "Quality against speed and against size; students of one architecture are drawn side by side. The stepped line "
        "joins the models that nothing beats, the dotted ones are the best rivals, which are not timed."
    )
    alt = "NDCG@10 against throughput and parameters"
    unbeaten = "; ".join(label(model, part.run) for model in front(places(part)))
    blocks: list[Block] = [
        Heading("Quality against speed"),
        Picture(alt, pictures["tradeoff"], caption),
        Text(f"By their means, no other model that was timed is both better and faster than these: {unbeaten}."),
    ]
    for student, found in part.efficiency.items():
        rows = []
        largest_first = sorted(found["models"].items(), key=lambda entry: -entry[1]["parameters"]["total"])
        for timed, row in largest_first:
            model = paths.student(student, method) if timed == student else timed
            rows.append([label(model, part.run), mean(part.quality(model)), *(value(row) for _, _, value in TIMED)])
        text = (
            f"Measured side by side in one process on {found['device']} in {found['precision']} with "
            f"{found['threads']} threads. In turns all answered {found['queries']} queries of "
            f"{found['candidates']:.0f} candidates. All methods of a shape have one architecture. "
            f"Energy counter: {found['energy_counter']}."
        )
        columns = [column for column, *_ in TIMED]
        blocks += title(part, student)
        blocks += [_times(part, paths.student(student, method))]
        blocks += [Table(["model", "NDCG@10", *columns], rows), Text(text)]
    return blocks


def _times(part: Part, model: str) -> Table:
    """How many times better than the teacher, and than the smallest model not shown below it, the student is."""
    student, peer = model.split("/")[0], smallest_not_below(part, model)
    found = part.efficiency[student]
    ratios, between = found["ratios"][student], found["intervals"][student]
    rows: list[list[Cell]] = [["teacher", *(_ratio(ratios, between, name) for _, name, _ in TIMED)]]
    if peer and peer.model != "teacher":
        what = label(peer.model, part.run), f"the smallest model not shown below it: {peer.quality}"
        rows.append([what, *(_ratio(peer.times, {}, name) for _, name, _ in TIMED)])
    return Table(["the student, times better than", *(name.replace("_", " ") for _, name, _ in TIMED)], rows)


def _ratio(times: Mapping[str, float], between: Mapping[str, Any], name: str) -> Cell:
    if name not in times:
        return ""
    text, row = f"{times[name]:.2f}x", between.get(name)
    return (text, f"{row['low']:.2f} to {row['high']:.2f}") if row else text


def layers(part: Part, method: str, pictures: Pictures) -> list[Block]:
    states = (("base", "before adaptation"), ("adapted", "after adaptation"))
    rows = [
        [f"{name}, {what}", *_fisher(part.fisher[state][kind])]
        for state, name in states
        for kind, what in KINDS.items()
        if kind in part.fisher[state]
    ]
    header = [
        "Fisher of the teacher", "windows", "upper / lower quarter", "relative to the weights", "of the state",
        "last layer's share", "of which normalisation", "stability of the ranking", "embedding, head / all layers",
    ]  # fmt: skip
    caption = "What each layer of the teacher holds of the Fisher information, before and after adaptation."
    text = (
        "Small below a ratio of quarters: the same without the last layer. A trace depends on how a layer is "
        "parametrised. Two measures beside it do so far less or not at all: the trace times the mean squared weight, "
        "and the Fisher of the layer's state. The teacher has read the labelled windows, and has not read the transfer "
        "windows."
    )
    blocks: list[Block] = [
        Heading("Where the Fisher information is"),
        Picture("Fisher profile of the layers", pictures["profile"], caption),
        Table(header, rows, words=(0, 1)),
        Text(text),
    ]
    if "weights" in pictures:
        caption = "What each strategy starts from; all sum to 1, so that no strategy has a stronger layer loss."
        blocks += [Heading("Layer weights", 3), Picture("Weights of each strategy", pictures["weights"], caption)]
    for student in part.run.students:
        name = _named(part, student, method)
        if part.changing(paths.student(student, method)):
            caption = f"{name}: dynamic weights (Eq. 9) during distillation, first seed."
            blocks.append(Picture("Layer weights over the steps", pictures[f"{student}/trajectory"], caption))
        elif paths.student(student, method) in part.weights:
            blocks.append(Text(f"The weights of {name} (Eq. 9) were not updated in this run."))
    return blocks


def _fisher(found: Mapping[str, Any]) -> list[Cell]:
    """One state and kind: the trace, and the two measures beside it."""
    total = sum(layer["trace"] for layer in found["layers"])
    outside = [f"{found['outside'][place]['trace'] / total:.1%}" for place in ("embedding", "head")]
    ratios = (
        (f"{row['upper_lower_quarter']:.2f}", f"{row['upper_lower_quarter_without_last']:.2f}")
        for row in (found, found["relative"], found["state_fisher"])
    )
    shares = f"{found['last_layer_share']:.1%}", f"{found['normalisation_share']:.1%}"
    return [found["source"], *ratios, *shares, f"{found['rank_stability']:.3f}", ", ".join(outside)]


def training(part: Part, list_weight: float, pictures: Pictures) -> list[Block]:
    caption = "Validation and losses over the optimiser steps, means over seeds; long curves are running medians."
    drawn = [Picture(f"Training, students {s}", pictures[f"{s}/training"], caption) for s in part.run.students]
    text = (
        f"The students' label term is BCE in Eq. 7. Here a share of {list_weight:g} of it (distill.list_weight) is a "
        "softmax over the list, which Eq. 7 does not have."
    )
    return [*outcome(part), *strengths(part), *drawn, Text(text)]


def compared(part: Part) -> list[Block]:
    """All comparisons, by the groups within which Holm's correction was made."""
    blocks: list[Block] = []
    for group, heading in GROUPS.items():
        found = {student: part.comparisons(student, group) for student in (None, *part.run.students)}
        if any(found.values()):
            blocks += [Heading(heading), *([Text(_strategies(part))] if group == "strategies" else [])]
        for student, rows in found.items():
            if rows:
                blocks += [*title(part, student), _differences(part, rows)]
    note = (
        "Differences over the same users and seeds, in NDCG@10 where no other metric is named. Two models are tested "
        "once, in the first table that asks. The p of a t test is after Holm over the comparisons of a table. Below it "
        "stands that of a randomisation test, alone, where the seeds allow one. "
        f"Any other comparison can be made from {part.paths.per_user}."
    )
    return [*blocks, Text(note)]


def _strategies(part: Part) -> str:
    first = ordered(part.weighted(part.run.students[0]), part.run)
    fixed, changing = ("; ".join(short(m) for m in first if part.changing(m) is changed) for changed in (False, True))
    text = f"One student, one data order, one step budget; the layer weights differ. Fixed in training: {fixed}."
    return f"{text} Changed in training (Eq. 9): {changing}." if changing else text


def _differences(part: Part, comparisons: Sequence[Mapping[str, Any]]) -> Table:
    rows = []
    for row in comparisons:
        names, effect = [label(row[side], part.run) for side in "ab"], "" if row["d"] is None else f"{row['d']:+.2f}"
        names[1] += "" if row["metric"] == PRIMARY else f", in {METRICS[row['metric']].label}"
        randomised = "" if row["p_perm"] is None else _p(row["p_perm"])
        difference = f"{row['difference']:+.3f}", f"{row['low']:+.3f} to {row['high']:+.3f}"
        p, seen = (_p(row["p_holm"]), randomised), f"{row['detectable_holm']:.3f}"
        rows.append([*names, difference, spread(row["by_seed"], "+.3f"), effect, p, seen, row["verdict"]])
    header = ["A", "B", "A minus B", "over seeds", "Cohen's d", "p", "80% power for", "A is"]
    return Table(header, rows, words=(0, 1, 7))


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.2g}"


def data(part: Part, pictures: Pictures) -> list[Block]:
    filters = [[s["step"], *(f"{s[key]:,}" for key in FILTERED)] for s in part.data["filters"]]
    return [
        Heading("Data"),
        Table(["after", *FILTERED], filters),
        Table(["", "value"], [*map(list, _facts(part.data))]),
        Picture("The data", pictures["data"], "How many items a user likes; how the likes are spread over the items."),
    ]


def _facts(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    lost, lengths, likes = found["lost"], found["history_length"], found["mean_likes"]
    popularity, tied = found["popularity_ndcg_10"]["test_matched"], found["val_and_test_share_a_time"]
    yield "users, items, interactions lost to the filters", ", ".join(f"{lost[key]:.1%}" for key in FILTERED)
    yield "sparsity", f"{found['sparsity']['after']:.2%}"
    yield "positives of a user: median, least, most", ", ".join(f"{lengths[k]:.0f}" for k in ("median", "min", "max"))
    yield "cold items", f"{found['cold_items']:,}"
    yield "rows that could not be read", f"{found['rejected']['rows']:,}"
    yield "likes in a prompt: labelled, test", f"{likes['labelled']:.1f}, {likes['test']:.1f}"
    if tied is not None:
        yield "users whose test and validation item share a time stamp", f"{tied:.1%}"
    scorers = ", ".join(f"{popularity[name]:.3f}" for name in ("popularity", "inverse", "chance"))
    yield f"NDCG@10 on the {MAIN} lists of popularity, its inverse, chance", scorers
