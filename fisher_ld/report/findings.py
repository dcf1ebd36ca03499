"""The questions that decide about a deployment, answered from intervals, of one student on one data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fisher_ld.config import paths
from fisher_ld.experiments.claims import at_least
from fisher_ld.experiments.results import MAIN, Part
from fisher_ld.report.names import label, short

RETAINED, PARAMETERS, THROUGHPUT = 0.92, 0.25, 4.0  # the targets
VERDICTS = {"shown above": "shown", "shown below": "opposite shown", "not shown": "not shown"}


@dataclass(frozen=True)
class Finding:
    question: str
    answer: str  # yes, no, shown, not shown, opposite shown, not measured
    text: str

    @property
    def good(self) -> bool:
        return self.answer in ("yes", "shown")


def span(row: Mapping[str, float], sign: bool = False) -> str:
    """'0.394 (0.381 to 0.407)' of a row with mean or difference, low and high."""
    value = row["difference"] if "difference" in row else row["mean"]
    plus = "+" if sign else ""
    return f"{value:{plus}.3f} ({row['low']:{plus}.3f} to {row['high']:{plus}.3f})"


def share(row: Mapping[str, float]) -> str:
    return f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def _gate(part: Part, gate: Mapping[str, Any]) -> Finding:
    cut = paths.truncated(gate["truncated"]["depth"])
    rivals = {**gate["rivals"], cut: gate["truncated"]}
    text = "; ".join(f"over {label(name, part.run)} {span(row, sign=True)}" for name, row in rivals.items())
    text = f"NDCG@10 {gate['teacher']:.3f} on {gate['lists']:,} validation lists, {text} (each interval alone)."
    return Finding("Is the teacher worth distilling?", "yes" if gate["passed"] else "no", text)


def gate_sentence(gate: Mapping[str, Any]) -> str:
    """For the first lines: what may be said of distillation at all."""
    lists = f"its gate on {gate['lists']:,} validation lists"
    if gate["passed"]:
        return f"The teacher passed {lists}."
    overridden = "This is not a test of distillation, the gate was overridden: " if gate["overridden"] else ""
    text = f"{overridden}the teacher did not pass {lists}: {'; '.join(gate['reasons'])}."
    return text[0].upper() + text[1:]


def _against(part: Part, a: str, b: str, question: str) -> Finding:
    row = part.comparison(a, b)
    if row is None:
        return Finding(question, "not measured", f"{label(a, part.run)} was not compared with {label(b, part.run)}.")
    text = f"NDCG@10 difference {span(row, sign=True)}, p {row['p_holm']:.2g} after Holm, n {row['n']:,}."
    return Finding(question, VERDICTS[row["verdict"]], text)


def findings(part: Part, student: str, method: str) -> dict[str, Finding]:
    """By a short name, in the order of the report. `method`: the one that the report is about."""
    model, gate = f"{student}/{method}", part.gates[student]
    kept = part.evaluate["retained"][MAIN][model]
    found = part.efficiency[student]
    row, ratios = found["models"][student], found["ratios"][student]
    size, rate = 1 / ratios["parameters"], ratios["throughput"]
    between = found["intervals"][student]["throughput"]
    low, high = (between["low"], between["high"]) if between else (rate, rate)
    certain = f" (95% interval {low:.1f} to {high:.1f})" if between else ""
    above = kept["above_chance"]
    of_gain = f" Of what the teacher gains over chance: {share(above)}." if above else ""
    cut = paths.truncated(gate["truncated"]["depth"])
    name = short(model)
    result = {
        "gate": _gate(part, gate),
        "truncated": _against(part, "teacher", cut, "Does the teacher beat its own first layers, adapted alone?"),
        "retained": Finding(
            f"Does the student keep {RETAINED:.0%} of the teacher's NDCG@10?",
            at_least(kept["low"], kept["high"], RETAINED),
            f"It keeps {share(kept)}.{of_gain}",
        ),
        "parameters": Finding(
            f"Has it at most {PARAMETERS:.0%} of the teacher's parameters?",
            "yes" if size <= PARAMETERS else "no",
            f"{size:.1%}: {row['parameters']['total'] / 1e6:.1f} million, embeddings included.",
        ),
        "throughput": Finding(
            f"Is it at least {THROUGHPUT:g} times as fast?",
            at_least(low, high, THROUGHPUT),
            f"{rate:.1f} times the throughput{certain}, latency p50 {ratios['latency_p50']:.1f} times shorter.",
        ),
    }
    for rival in gate["rivals"]:
        result[rival] = _against(part, model, rival, f"Does it beat {label(rival, part.run)}?")
    for other, question in (
        ("start", "Does it beat what it started from, with the head fitted alone?"),
        ("none", "Does distillation help the same student?"),
        ("uniform", f"Does {name} beat uniform layers?"),
        ("fisher-shuffled", f"Does {name} beat its own shuffle?"),
    ):
        result[other] = _against(part, model, f"{student}/{other}", question)
    return result


# What the summary says beside the targets: finding -> answer -> sentence.
LIMITS = {
    "start": {
        "opposite shown": "But what it started from, with the head fitted alone, is shown above it.",
        "not shown": "It is not shown to beat what it started from, with the head fitted alone.",
    },
    "truncated": {
        "opposite shown": "The teacher's own first layers, adapted alone, are shown above the whole teacher.",
        "not shown": "The teacher is not shown to beat its own first layers, adapted alone.",
    },
    "none": {
        "opposite shown": "Distillation is shown to cost quality: the same student is better trained on the labels "
        "alone.",
        "not shown": "Distillation is not shown to beat training the same student on the labels alone.",
    },
}


def headline(part: Part, student: str, method: str, found: Mapping[str, Finding]) -> list[str]:
    """The plain-language summary: whether it is a test at all, what one gets, whether it can replace the teacher,
    whether Fisher is why."""
    name = short(f"{student}/{method}")
    kept = part.evaluate["retained"][MAIN][f"{student}/{method}"]
    ratios = part.efficiency[student]["ratios"][student]
    first = (
        f"The {name} student keeps {kept['share']:.1%} of the teacher's NDCG@10 (95% interval {kept['low']:.1%} to "
        f"{kept['high']:.1%}) with {1 / ratios['parameters']:.1%} of its parameters at {ratios['throughput']:.1f} "
        f"times its throughput."
    )
    needed = ("gate", "retained", "parameters", "throughput", *(key for key in found if key.startswith("rivals/")))
    if lacking := [found[key] for key in needed if not found[key].good]:
        what = "; ".join(f"“{f.question}” {f.answer}" for f in lacking)
        second = f"It should not replace the teacher on these numbers: {what}."
    else:
        second = "On these lists it can replace the teacher: every target is met, and it beats all rivals."
    limits = [said[found[key].answer] for key, said in LIMITS.items() if found[key].answer in said]
    reason = _reason(name, found["uniform"], found["fisher-shuffled"])
    return [gate_sentence(part.gates[student]), first, " ".join([second, *limits]), reason]


def _reason(name: str, uniform: Finding, shuffled: Finding) -> str:
    """Whether Fisher weights are why."""
    rivals = {"uniform layers": uniform, "its own shuffle": shuffled}
    above = [rival for rival, finding in rivals.items() if finding.good]
    below = [rival for rival, finding in rivals.items() if finding.answer == "opposite shown"]
    trained = shuffled.answer != "not measured"
    if below:
        return f"Fisher weighting is shown to cost quality: {name} is below {' and '.join(below)}."
    if above == list(rivals):
        return "The Fisher weights are shown to help: over uniform layers and over their own shuffle."
    if above == ["uniform layers"]:
        but = "but not its own shuffle" if trained else "but its own shuffle was not trained"
        return f"It is shown to beat uniform layers, {but}: what helps need not be which layer gets which weight."
    if above:
        return "It is shown to beat its own shuffle, but not uniform layers, which are simpler."
    neither = "neither a gain over uniform layers nor one over the shuffled weights"
    found = neither if trained else "no gain over uniform layers, and the shuffled weights were not trained"
    return f"That Fisher weighting is the reason is not shown: {found}."
