"""What the paper claims in its text, judged. A claim of size is reproduced where the whole of our interval reaches
it. Nothing is judged of a teacher that did not pass its gate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy.stats import t as student_t

from fisher_ld.config import paths
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.evaluation.metrics.ties import rank
from fisher_ld.experiments.convergence import SCORE, steps_to_target
from fisher_ld.experiments.peers import smallest_not_below
from fisher_ld.experiments.results import PROPOSED, Part, Results
from fisher_ld.experiments.tables import EFFICIENCY, Empty, locate, measure, paper

YES, NO, NEVER, CHOSEN = "reproduced", "not reproduced", "cannot be compared", "chosen, not found"
STATES = {
    "shown above": "a gain is shown",
    "shown below": "the opposite is shown: a loss",
    "equal": "no gain: they are equal within evaluate.margin",
    "not shown": "no gain is shown",
}
SEEDS = 3  # fewest that give an interval of what has no users
FISHER = "model"  # kind of the traces that the paper's are compared with: the label drawn from the model


@dataclass(frozen=True)
class Judged:
    where: str  # in the paper
    what: str
    paper: str
    ours: str
    verdict: str
    reason: str


@dataclass(frozen=True)
class Subject:
    """What a claim is about."""

    claim: Mapping[str, Any]
    part: Part
    student: str
    model: str  # full name

    def tested(self, metric: str | None = None) -> Mapping[str, Any]:
        """The model minus the one it is compared with, in NDCG@10 where no other metric is named. Raises Empty."""
        against = paths.student(self.student, self.claim.get("against", "uniform"))
        row = self.part.comparison(self.model, against, metric or PRIMARY)
        if row is None or row["mean_b"] <= 0:
            raise Empty("no such comparison was made")
        if row["verdict"] not in STATES:
            raise Empty(row["verdict"])
        return row


Answer = tuple[str, bool, str]  # ours, whether it is reproduced, why


def at_least(low: float, high: float, target: float) -> str:
    """yes: the whole interval reaches the target; no: none of it does; else not shown."""
    if low >= target:
        return "yes"
    return "no" if high < target else "not shown"


def judge(claim: Mapping[str, Any], results: Results) -> Judged:
    """A row of `claims` in paper.yaml beside ours."""
    target, measured = claim["paper"], claim.get("measure")
    if measured == "gain" and isinstance(target, list):
        target = target[0] / target[1] - 1
    form = claim.get("form", "{:+.1%}" if measured == "gain" else "{}")
    place = claim["where"], claim["what"], form.format(target)
    try:
        subject = _subject(claim, results)
        answer = ANSWERS.get(claim["measure"], _size)
        ours, reproduced, reason = answer(subject, target, form)
    except Empty as why:
        return Judged(*place, "not measured", NEVER, str(why))
    if not subject.part.gates[subject.student]["passed"]:
        return Judged(*place, ours, NEVER, "our teacher did not pass the gate")
    chosen = f"students.{subject.student} of params.yaml says so" if measured == "reduction" else None
    verdict = CHOSEN if chosen else YES if reproduced else NO
    return Judged(*place, ours, verdict, "; ".join(filter(None, [reason, chosen, claim.get("note")])))


def _subject(claim: Mapping[str, Any], results: Results) -> Subject:
    if "measure" not in claim:
        raise Empty("no such experiment yet")
    locate(results, {**claim, "model": claim.get("against", "teacher")})
    return Subject(claim, *locate(results, {"model": PROPOSED, **claim}))


def _reached(ours: str, low: float, high: float, target: float, claimed: str) -> Answer:
    exact, answer = low == high, at_least(low, high, target)
    reason = {
        "yes": f"ours reaches {claimed}" if exact else f"our interval lies at or above {claimed}",
        "no": f"ours lies below {claimed}" if exact else f"our interval lies below {claimed}",
        "not shown": f"not shown: our interval holds {claimed}, and less",
    }[answer]
    return ours, answer == "yes", reason


def _size(subject: Subject, target: float, form: str) -> Answer:
    value, low, high = measure(subject.claim["measure"], subject.part, subject.student, subject.model)
    interval = f" ({form.format(low)} to {form.format(high)})" if low < high else ""
    ours, reached, reason = _reached(form.format(value) + interval, low, high, target, form.format(target))
    return ours, reached, reason + _beside(subject, form)


def _beside(subject: Subject, form: str) -> str:
    """The same number over the smallest model that is not shown below, where the claim is one over the teacher."""
    name, peer = subject.claim["measure"], smallest_not_below(subject.part, subject.model)
    if name not in EFFICIENCY or peer is None or peer.model == "teacher":
        return ""
    ours = form.format(EFFICIENCY[name]({}, peer.times))
    return f"; over {peer.model}, the smallest model not shown below it ({peer.quality}), it is {ours}"


def _gain(subject: Subject, target: float, form: str) -> Answer:
    """Relative, in the metric of the claim or, where none is named, in NDCG@10, which is tested."""
    metric = subject.claim.get("metric")
    row = subject.tested(metric)
    if subject.part.at_chance(row["b"]):
        raise Empty(f"{row['b']} is itself not shown above chance, so that a gain over it says nothing")
    value, low, high = (row[key] / row["mean_b"] for key in ("difference", "low", "high"))
    ours = f"{value:+.1%} ({low:+.1%} to {high:+.1%}) {METRICS[metric or PRIMARY].label}"
    above = row["verdict"] == "shown above"
    size = f" but not one of {target:.1%}" if above and low < target else ""
    return ours, above and low >= target, STATES[row["verdict"]] + size


def _effect(subject: Subject, target: float, form: str) -> Answer:
    """Of the users' paired differences; its interval is that of their mean in units of their deviation."""
    row = subject.tested(subject.claim["metric"])
    d, difference = row["d"], row["difference"]
    if d is None or difference == 0:
        return "none: the mean difference is 0", False, STATES[row["verdict"]]
    low, high = (row[end] * d / difference for end in ("low", "high"))
    ours, reached, reason = _reached(f"{d:+.2f} ({low:+.2f} to {high:+.2f})", low, high, target, str(target))
    return ours, reached and row["verdict"] == "shown above", f"of the users' paired differences; {reason}"


def _significant(subject: Subject, level: float, form: str) -> Answer:
    """p is two-sided: it counts only where a gain is shown."""
    rows = {metric: subject.tested(metric) for metric in subject.claim["metrics"]}
    ours = ", ".join(f"{METRICS[metric].label} {row['p']:.2g}" for metric, row in rows.items())
    lacking = [m for m, row in rows.items() if row["verdict"] != "shown above" or row["p"] >= level]
    state = f"; no gain at that level: {_labels(lacking)}" if lacking else ""
    return ours, not lacking, f"by a paired t-test as there, here over users and seeds{state}"


def _above_zero(subject: Subject, target: str, form: str) -> Answer:
    rows = {metric: subject.tested(metric) for metric in subject.claim["metrics"]}
    ours = ", ".join(f"{METRICS[m].label} {row['low']:+.3f} to {row['high']:+.3f}" for m, row in rows.items())
    lacking = [m for m, row in rows.items() if row["low"] <= 0]
    return ours, not lacking, f"not above zero: {_labels(lacking)}" if lacking else "all lie above zero"


def _labels(metrics: list[str]) -> str:
    return ", ".join(METRICS[metric].label for metric in metrics)


def _upper_lower(subject: Subject, target: float, form: str) -> Answer:
    """The interval is a cautious one: standard errors of the layers are added, as if they moved together."""
    adapted, base = (subject.part.fisher[state][FISHER] for state in ("adapted", "base"))
    layers = adapted["layers"]
    count = max(1, len(layers) // 4)
    lower, upper = layers[:count], layers[-count:]
    a, b = (sum(row["trace"] for row in part) for part in (upper, lower))
    da, db = (1.96 * sum(row["standard_error"] for row in part) for part in (upper, lower))
    low, high = max(0.0, a - da) / (b + db), (a + da) / (b - db) if b > db else math.inf
    without = adapted["upper_lower_quarter_without_last"]
    more = f"{without:.2g}x without the last layer"
    if without < target <= adapted["upper_lower_quarter"]:
        more += ": the last layer alone carries it"
    ours = f"{adapted['upper_lower_quarter']:.2g}x ({low:.2g} to {high:.2g})"
    ours, reached, reason = _reached(ours, low, high, target, form.format(target))
    return ours, reached, f"{reason}; {more}, {base['upper_lower_quarter']:.2g}x before adaptation"


def _top_layers(subject: Subject, target: list[int], form: str) -> Answer:
    """The paper's layers, at the same depth here."""
    layers = subject.part.fisher["adapted"][FISHER]["layers"]
    count = len(layers)
    expected = sorted({math.ceil(layer * count / paper()["layers"]) for layer in target})
    if len(expected) < len(target):
        raise Empty(f"{count} layers are too few to tell that depth apart")
    largest = sorted(layers, key=lambda row: -row["share"])[: len(expected)]
    found = sorted(row["layer"] for row in largest)
    ours, depth = f"{', '.join(map(str, found))} of {count}", f"at that depth: {', '.join(map(str, expected))}"
    if found != expected:
        return ours, False, f"{depth}; the largest traces are elsewhere"

    def bound(row: Mapping[str, float], side: int) -> float:
        return row["share"] + side * 1.96 * row["share_standard_error"]

    inside = min(bound(row, -1) for row in layers if row["layer"] in expected)
    if inside > max(bound(row, 1) for row in layers if row["layer"] not in expected):
        return ours, True, f"{depth}; their intervals lie above all others"
    return ours, False, f"{depth}; not shown: their intervals meet those of others"


def _sooner(subject: Subject, target: float, form: str) -> Answer:
    """How many times fewer steps than uniform layers it takes to where these end, paired by seed."""
    steps, part = steps_to_target(subject.part), subject.part
    uniform = paths.student(subject.student, "uniform")
    if uniform not in steps:
        raise Empty("uniform layers gain nothing over chance")
    every, last = (part.curves[uniform].drop_nulls(SCORE).filter(pl.col("step") > 0)["step"][i] for i in (0, -1))
    if last < target * every:
        raise Empty(f"validated after {every} of {last} steps at first, which is too late to see it")
    seeds = len(part.run.seeds)
    if None in steps[uniform]:
        raise Empty(f"uniform layers do not get there themselves in {steps[uniform].count(None)} of {seeds} seeds")
    pairs = zip(steps[uniform], steps[subject.model], strict=True)
    reached = [(theirs, ours) for theirs, ours in pairs if theirs and ours]
    if len(reached) < seeds:
        lacking = f"in {seeds - len(reached)} of {seeds} seeds it does not get there in {last} steps"
        return "never, in some seeds", False, lacking
    if seeds < SEEDS:
        raise Empty(f"{seeds} of the {SEEDS} training seeds that an interval needs")
    times = np.log([theirs / ours for theirs, ours in reached])
    half = float(student_t.ppf(0.975, seeds - 1) * times.std(ddof=1) / math.sqrt(seeds))
    value, low, high = (math.exp(times.mean() + side * half) for side in (0, -1, 1))
    text = f"{form.format(value)} ({form.format(low)} to {form.format(high)})"
    ours, enough, reason = _reached(text, low, high, target, form.format(target))
    return ours, enough, f"{reason}; steps are no finer than distill.eval_every"


ANSWERS: Mapping[str, Callable[[Subject, Any, str], Answer]] = {
    "gain": _gain,
    "effect": _effect,
    "p": _significant,
    "above_zero": _above_zero,
    "upper_lower": _upper_lower,
    "top_layers": _top_layers,
    "sooner": _sooner,
}


def impossible(ndcg_5: float, ndcg_10: float, mrr: float, hit_5: float) -> list[str]:
    """What cannot be of means over lists with one positive each: at rank r the list is worth 1 / log2(r + 1) within the
    cut of NDCG, 1 / r of MRR, and 1 within the cut of Hit. So NDCG@5 is at most Hit@5 and at most NDCG@10, and what
    lies below rank 5 adds at most 1 / log2(7) to NDCG@10 and 1 / 6 to MRR."""
    found = []
    if ndcg_5 > hit_5:
        found.append(f"NDCG@5 {ndcg_5} above Hit@5 {hit_5}")
    if ndcg_5 > ndcg_10:
        found.append(f"NDCG@5 {ndcg_5} above NDCG@10 {ndcg_10}")
    for label, value, most in (
        ("NDCG@10", ndcg_10, hit_5 + (1 - hit_5) / math.log2(7)),
        ("MRR", mrr, hit_5 + (1 - hit_5) / 6),
    ):
        if value > most:
            found.append(f"{label} {value} above the {most:.3f} that Hit@5 {hit_5} allows")
    return found


def doubts() -> list[tuple[str, str]]:
    """What the paper does not state, and what its own numbers would mean if it held."""
    tables = {table["name"]: {row["name"]: row.get("paper") for row in table["rows"]} for table in paper()["tables"]}
    first = list(tables["table-1"].items())
    rows = sum(bool(impossible(*numbers[:4])) for _, numbers in first)
    name, numbers = first[-1]
    lowest = tables["table-4"]["Micro, Uniform KD"][0]
    chance = METRICS["ndcg_5"].of(rank([np.zeros(paper()["train_negatives"] + 1)], np.zeros(1, int)))[0]
    return [
        (
            "every list has one positive",
            f"{rows} of the {len(first)} rows of Table I are impossible ({name}: "
            f"{', '.join(impossible(*numbers[:4]))})",
        ),
        (
            f"its test lists have its training ratio, 1 to {paper()['train_negatives']}",
            f"chance is NDCG@5 {chance:.3f}, and the {lowest} of Table IV is chance",
        ),
    ]
