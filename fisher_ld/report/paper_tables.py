"""The paper's numbers beside ours. A claim of size is reproduced where the whole of our interval reaches it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fisher_ld.report import paper
from fisher_ld.report.findings import at_least, share, span
from fisher_ld.report.inputs import LABELS, MAIN, METRIC_LABELS, PRIMARY, STUDENT, Results

YES, NO, NEVER = "reproduced", "not reproduced", "cannot be compared"
OTHER_DATA = "other data, teacher and lists (the paper does not state the lists' length)"
NOT_YET = "no such experiment here yet"
QUIET_START = "the upper layers started quietly, which alone changes the profile"
UNTESTED = " (here without Hit@5)"
OTHER_MACHINE = "other models on another machine; compare the ratios"


@dataclass(frozen=True)
class Beside:
    where: str  # in the paper
    what: str
    paper: str
    ours: str
    verdict: str
    reason: str


def beside(results: Results) -> list[Beside]:
    return [
        *_claims(results),
        *_table_i(results),
        *_table_iii(results),
        *_table_viii(results),
        *_table_x(results),
        *_elsewhere(),
    ]


def _reached(where: str, what: str, claim: str, ours: str, low: float, high: float, target: float, more: str) -> Beside:
    answer = at_least(low, high, target)
    exact = low == high
    reason = {
        "yes": f"ours reaches {claim}" if exact else f"our interval lies at or above {claim}",
        "no": f"ours lies below {claim}" if exact else f"our interval lies below {claim}",
        "not shown": f"not shown: our interval holds {claim}, and less",
    }[answer]
    return Beside(where, what, claim, ours, YES if answer == "yes" else NO, f"{reason}; {more}" if more else reason)


def _gain(results: Results, where: str, what: str, a: str, b: str, claim: float) -> Beside:
    """The relative gain of a over b that the paper claims (in NDCG@5), against ours in NDCG@10, which is tested."""
    row = results.comparison(a, b)
    if row is None or row["mean_b"] <= 0:
        reason = "not among the methods of this run" if a in LABELS else "this strategy is not implemented yet"
        return Beside(where, what, f"{claim:+.1%}", "not measured", NEVER, reason)
    return _gained(where, what, row, claim, PRIMARY)


def _gained(where: str, what: str, row: Mapping[str, Any], claim: float, metric: str, more: str = "") -> Beside:
    value, low, high = (row[k] / row["mean_b"] for k in ("difference", "low", "high"))
    ours = f"{value:+.1%} ({low:+.1%} to {high:+.1%}) {METRIC_LABELS[metric]}"
    state = {
        "shown above": "a gain is shown",
        "shown below": "the opposite is shown: a loss",
        "not shown": "no gain is shown",
    }[row["verdict"]]
    if row["verdict"] == "shown above" and low >= claim:
        return Beside(where, what, f"{claim:+.1%}", ours, YES, "; ".join(filter(None, [state, more])))
    size = "" if row["verdict"] != "shown above" else f" but not one of {claim:.1%}"
    return Beside(where, what, f"{claim:+.1%}", ours, NO, "; ".join(filter(None, [state + size, more])))


def _claims(results: Results) -> list[Beside]:
    kept = results.evaluate["retained"][MAIN][STUDENT]
    _, ratios = results.efficiency(STUDENT)
    rows = []
    what, claim = "share of the teacher's quality", f"{paper.RETAINED:.0%}"
    if results.gate["passed"]:
        ours = f"{share(kept)} of NDCG@10"
        rows.append(_reached("abstract", what, claim, ours, kept["low"], kept["high"], paper.RETAINED, ""))
    else:
        reason = "our teacher did not pass its gate: a share of it says nothing"
        rows.append(Beside("abstract", what, claim, share(kept), NEVER, reason))
    reduction = 1 - 1 / ratios["parameters"]
    for where, target in paper.REDUCTIONS.items():
        rows.append(
            _reached(where, "fewer parameters", f"{target:.1%}", f"{reduction:.1%}", reduction, reduction, target,
                     paper.REDUCTION_REASON)
        )  # fmt: skip
    for what, name, target in (
        ("shorter latency", "latency_p50", paper.SPEEDUP),
        ("higher throughput", "throughput", paper.THROUGHPUT),
    ):
        value = ratios[name]
        where = "abstract" if name == "latency_p50" else "section V-E"
        more = "a ratio on this machine, without interval"
        rows.append(_reached(where, what, f"{target:g}x", f"{value:.1f}x", value, value, target, more))
    for metric, claim in paper.GAINS.items():
        own = getattr(paper.TABLE_I["fisher-ld"], metric) / getattr(paper.TABLE_I["uniform"], metric) - 1
        row, what = results.evaluate["claims"][MAIN][metric], f"{METRIC_LABELS[metric]} over uniform"
        rows.append(_gained("abstract", what, row, claim, metric, f"Table I itself would make it {own:+.1%}"))
        rows.append(_effect(f"{what}: Cohen's d", row, paper.COHENS_D[metric]))
        rows.append(_significant("section V-J", f"{what}: p", {metric: row}, paper.P_GAINS))
    tested = dict(results.evaluate["claims"][MAIN])
    if primary := results.comparison(STUDENT, "uniform"):
        tested[PRIMARY] = primary
    return [
        *rows,
        _significant("section V-A, Table I", f"over uniform, all metrics{UNTESTED}: p", tested, paper.P_ALL),
        _above_zero(tested),
        _upper_lower(results),
        _top_layers(results),
    ]


def _effect(what: str, row: Mapping[str, Any], claim: float) -> Beside:
    d = row["d"]
    ours = "none: all differences are equal" if d is None else f"{d:+.2f}"
    reached = row["verdict"] == "shown above" and d is not None and d >= claim
    reason = "of the users' paired differences; without interval"
    return Beside("section V-J", what, f"{claim}", ours, YES if reached else NO, reason)


def _significant(where: str, what: str, rows: Mapping[str, Mapping[str, Any]], level: float) -> Beside:
    """p is two-sided: it counts only where a gain is shown."""
    ours = ", ".join(f"{METRIC_LABELS[metric]} {row['p_t']:.2g}" for metric, row in rows.items())
    lacking = [m for m, row in rows.items() if row["verdict"] != "shown above" or row["p_t"] >= level]
    state = f"; no gain at that level: {_labels(lacking)}" if lacking else ""
    reason = f"by a paired t-test as there, here over users{state}"
    return Beside(where, what, f"< {level}", ours, NO if lacking else YES, reason)


def _above_zero(rows: Mapping[str, Mapping[str, Any]]) -> Beside:
    ours = ", ".join(f"{METRIC_LABELS[m]} {row['low']:+.3f} to {row['high']:+.3f}" for m, row in rows.items())
    lacking = [m for m, row in rows.items() if row["low"] <= 0]
    reason = f"not above zero: {_labels(lacking)}" if lacking else "all lie above zero"
    what = f"over uniform, all metrics{UNTESTED}: 95% bootstrap intervals"
    return Beside("section V-J", what, "exclude zero", ours, NO if lacking else YES, reason)


def _labels(metrics: list[str]) -> str:
    return ", ".join(METRIC_LABELS[metric] for metric in metrics)


def _upper_lower(results: Results) -> Beside:
    """The interval is a cautious one: standard errors of the layers are added, as if they moved together."""
    adapted, base = (results.fisher[state]["true"] for state in ("adapted", "base"))
    layers = adapted["layers"]
    count = max(1, len(layers) // 4)
    lower, upper = layers[:count], layers[-count:]
    a, b = (sum(row["trace"] for row in part) for part in (upper, lower))
    da, db = (1.96 * sum(row["standard_error"] for row in part) for part in (upper, lower))
    low, high = max(0.0, a - da) / (b + db), (a + da) / (b - db) if b > db else math.inf
    without = adapted["upper_lower_quarter_without_last"]
    more = f"{without:.2g}x without the last layer"
    if without < paper.UPPER_OVER_LOWER <= adapted["upper_lower_quarter"]:
        more += ": the last layer alone carries it"
    more += f", {base['upper_lower_quarter']:.2g}x before adaptation"
    ours = f"{adapted['upper_lower_quarter']:.2g}x ({low:.2g} to {high:.2g})"
    claim = f"{paper.UPPER_OVER_LOWER:g}x"
    what = "Fisher trace, upper quarter of the layers over the lower"
    if results.quiet_above():
        return Beside("section V-B", what, claim, ours, NEVER, f"{QUIET_START}; {more}")
    return _reached("section V-B", what, claim, ours, low, high, paper.UPPER_OVER_LOWER, more)


def _top_layers(results: Results) -> Beside:
    """Layers 28-30 of 32, at the same depth here."""
    layers = results.fisher["adapted"]["true"]["layers"]
    count = len(layers)
    expected = sorted({math.ceil(layer * count / paper.LAYERS) for layer in paper.TOP_LAYERS})
    what, claim = "most important layers", "28-30 of 32"
    largest = sorted(layers, key=lambda row: -row["share"])[: len(expected)]
    found = sorted(row["layer"] for row in largest)
    ours = f"{', '.join(map(str, found))} of {count}"
    if len(expected) < len(paper.TOP_LAYERS):
        reason = f"{count} layers are too few to tell that depth apart"
        return Beside("section V-B", what, claim, ours, NEVER, reason)
    if results.quiet_above():
        return Beside("section V-B", what, claim, ours, NEVER, QUIET_START)

    def bound(row: Mapping[str, float], side: int) -> float:
        return row["share"] + side * 1.96 * row["share_standard_error"]

    depth = f"at that depth: {', '.join(map(str, expected))}"
    if found != expected:
        return Beside("section V-B", what, claim, ours, NO, f"{depth}; the largest traces are elsewhere")
    inside = min(bound(row, -1) for row in layers if row["layer"] in expected)
    if inside > max(bound(row, 1) for row in layers if row["layer"] not in expected):
        return Beside("section V-B", what, claim, ours, YES, f"{depth}; their intervals lie above all others")
    return Beside("section V-B", what, claim, ours, NO, f"{depth}; not shown: their intervals meet those of others")


NAMES = {
    "teacher": "teacher",
    "uniform": "uniform KD",
    "attention-transfer": "Attention Transfer",
    "fitnets": "FitNets",
    "progressive": "Progressive KD",
    "tinybert": "TinyBERT",
    "minilm": "MiniLM",
    "fisher-ld": "Fisher-LD",
}


def _table_i(results: Results) -> list[Beside]:
    rows = []
    for model, row in paper.TABLE_I.items():
        printed = asdict(row)
        never = paper.impossible(printed)
        metrics = ("ndcg_5", "ndcg_10", "mrr", "hit_5")
        cells = {metric: cell for metric in metrics if (cell := results.quality(model, metric))}
        if not cells:
            what = f"{NAMES[model]}: NDCG@5, NDCG@10, MRR, Hit@5, ms, GB, M parameters, queries a second"
            numbers = ", ".join(f"{value:,g}" for value in printed.values())
            rows.append(Beside("Table I", what, numbers, "not measured", NEVER, never.get("ndcg_5", NOT_YET)))
            continue
        for metric, cell in cells.items():
            reason = never.get(metric, OTHER_DATA)
            what = f"{NAMES[model]}: {METRIC_LABELS[metric]}"
            rows.append(Beside("Table I", what, f"{printed[metric]:.3f}", span(cell), NEVER, reason))
        own, _ = results.efficiency(model)
        memory = f"{own['memory']['peak_mib'] / 1024:.2f} GB" if isinstance(own["memory"], dict) else own["memory"]
        size = OTHER_MACHINE if model == "teacher" else paper.SIZE_REASON
        for what, theirs, here, reason in (
            ("latency", f"{row.latency_ms:,g} ms", f"{own['latency_p50_ms']:.0f} ms", OTHER_MACHINE),
            ("memory", f"{row.memory_gb} GB", memory, OTHER_MACHINE),
            ("parameters", f"{row.size_m:,g}M", f"{own['parameters']['total'] / 1e6:.1f}M", size),
            ("queries a second", f"{row.queries_per_second:g}", f"{own['queries_per_second']:.1f}", OTHER_MACHINE),
        ):
            rows.append(Beside("Table I", f"{NAMES[model]}: {what}", theirs, here, NEVER, reason))
    return rows


def _table_iii(results: Results) -> list[Beside]:
    _, base, base_mrr = paper.TABLE_III["uniform"]
    rows = []
    for strategy, (name, ndcg_5, mrr) in paper.TABLE_III.items():
        if strategy != "uniform":
            what = f"{name} over uniform ({ndcg_5} to {base} NDCG@5, {mrr} to {base_mrr} MRR)"
            rows.append(_gain(results, "Table III", what, strategy, "uniform", ndcg_5 / base - 1))
    return rows


def _table_viii(results: Results) -> list[Beside]:
    _, ratios = results.efficiency(STUDENT)
    rows = []
    for name, (what, claim) in paper.TABLE_VIII.items():
        if name in ratios:
            value = ratios[name]
            more = "a ratio on this machine, without interval"
            rows.append(_reached("Table VIII", what, f"{claim}x", f"{value:.2f}x", value, value, claim, more))
        else:
            reason = "no counter for it on this machine" if name == "energy" else "not measured here"
            rows.append(Beside("Table VIII", what, f"{claim}x", "not available", NEVER, reason))
    return rows


def _table_x(results: Results) -> list[Beside]:
    rows = []
    name, full, full_mrr = paper.TABLE_X[STUDENT]
    for other, (what, ndcg_5, mrr) in paper.TABLE_X.items():
        if other != STUDENT:
            text = f"{name} over {what} ({full} to {ndcg_5} NDCG@5, {full_mrr} to {mrr} MRR)"
            rows.append(_gain(results, "Table X", text, STUDENT, other, full / ndcg_5 - 1))
    return rows


def _elsewhere() -> list[Beside]:
    """What has no experiment here, one row of the paper's tables at a time."""
    chance = (
        f"with 1 positive and 4 negatives a list, as in the paper's sampling, chance is {paper.chance_ndcg_5(5):.3f}"
    )
    found = [
        (table, f"{row}: {columns}", ", ".join(numbers.split()), chance if row == "Micro, Uniform KD" else NOT_YET)
        for table, columns, rows in paper.TABLES_ELSEWHERE
        for row, numbers in rows.items()
    ]
    found += [(*row, NOT_YET) for row in paper.TEXT_ELSEWHERE]
    return [Beside(where, what, number, "not measured", NEVER, reason) for where, what, number, reason in found]
