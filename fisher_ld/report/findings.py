"""The questions that decide about a deployment, answered from intervals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fisher_ld.report.inputs import MAIN, STUDENT, Results, label

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


def at_least(low: float, high: float, target: float) -> str:
    """yes: the whole interval reaches the target; no: none of it does; else not shown."""
    if low >= target:
        return "yes"
    return "no" if high < target else "not shown"


def _gate(gate: Mapping[str, Any]) -> Finding:
    rivals = "; ".join(f"over {label(name)} {span(row, sign=True)}" for name, row in gate["rivals"].items())
    text = f"NDCG@10 {gate['teacher']:.3f}, {rivals} (each interval alone, without Holm)."
    return Finding("Does the teacher beat popularity and item-kNN?", "yes" if gate["passed"] else "no", text)


def _against(results: Results, a: str, b: str, question: str) -> Finding:
    row = results.comparison(a, b)
    if row is None:
        return Finding(question, "not measured", f"No comparison of {label(a)} with {label(b)} was made.")
    text = f"NDCG@10 difference {span(row, sign=True)}, p {row['p_holm']:.2g} after Holm, n {row['n']:,}."
    return Finding(question, VERDICTS[row["verdict"]], text)


def findings(results: Results) -> dict[str, Finding]:
    """By a short name, in the order of the report."""
    kept = results.evaluate["retained"][MAIN][STUDENT]
    row, ratios = results.efficiency(STUDENT)
    part = 1 / ratios["parameters"]
    above = kept["above_chance"]
    of_gain = f" Of what the teacher gains over chance: {share(above)}." if above else ""
    count = row["parameters"]["total"] / 1e6
    return {
        "gate": _gate(results.gate),
        "truncated": _against(results, "teacher", "truncated", "Does the teacher beat its own first layers?"),
        "retained": Finding(
            f"Does the student keep {RETAINED:.0%} of the teacher's NDCG@10?",
            at_least(kept["low"], kept["high"], RETAINED),
            f"It keeps {share(kept)}.{of_gain}",
        ),
        "parameters": Finding(
            f"Has it at most {PARAMETERS:.0%} of the teacher's parameters?",
            "yes" if part <= PARAMETERS else "no",
            f"{part:.1%}: {count:.1f} million, embeddings included.",
        ),
        "throughput": Finding(
            f"Is it at least {THROUGHPUT:g} times as fast?",
            "yes" if ratios["throughput"] >= THROUGHPUT else "no",
            f"{ratios['throughput']:.1f} times the throughput, latency p50 {ratios['latency_p50']:.1f} times shorter.",
        ),
        "item-knn": _against(results, STUDENT, "item-knn", "Does it beat item-kNN?"),
        "popularity": _against(results, STUDENT, "popularity", "Does it beat popularity?"),
        "start": _against(results, STUDENT, "truncated", "Does it beat the teacher's own first layers?"),
        "none": _against(results, STUDENT, "none", "Does distillation help the same student?"),
        "uniform": _against(results, STUDENT, "uniform", "Does Fisher-LD beat uniform layers?"),
        "shuffled": _against(results, STUDENT, "fisher-shuffled", "Does Fisher-LD beat its own shuffle?"),
    }


def headline(results: Results, found: Mapping[str, Finding]) -> list[str]:
    """The plain-language summary: what one gets, whether it can replace the teacher, whether Fisher is why."""
    kept = results.evaluate["retained"][MAIN][STUDENT]
    _, ratios = results.efficiency(STUDENT)
    first = (
        f"The Fisher-LD student keeps {kept['share']:.1%} of the teacher's NDCG@10 (95% interval {kept['low']:.1%} to "
        f"{kept['high']:.1%}) with {1 / ratios['parameters']:.1%} of its parameters at {ratios['throughput']:.1f} "
        f"times its throughput."
    )
    needed = ("gate", "retained", "parameters", "throughput", "item-knn", "popularity")
    lacking = [found[name] for name in needed if not found[name].good]
    if lacking:
        what = "; ".join(f"“{f.question}” {f.answer}" for f in lacking)
        second = f"It should not replace the teacher on these numbers: {what}."
    else:
        second = "On these lists it can replace the teacher: every target is met, and it beats both simple baselines."
    limits = [_first_layers(found["start"], found["truncated"]), _distillation(found["none"])]
    second = " ".join([second, *filter(None, limits)])
    return [first, second, _reason(found["uniform"], found["shuffled"])]


def _first_layers(student: Finding, teacher: Finding) -> str:
    """Which of the two is not shown above the teacher's own first layers; nothing where both are."""
    both = {"it": student, "the teacher": teacher}
    below = [name for name, finding in both.items() if finding.answer == VERDICTS["shown below"]]
    unshown = [name for name, finding in both.items() if finding.answer == VERDICTS["not shown"]]
    isnt = "neither it nor the teacher is" if len(unshown) == 2 else f"{''.join(unshown)} is not"
    if below:
        better = "But the teacher's own first layers, of the same size and not trained further, are shown above"
        return f"{better} {' and '.join(below)}" + (f"; {isnt} shown to beat them." if unshown else ".")
    if unshown:
        own = "its own" if unshown == ["the teacher"] else "the teacher's own"
        text = f"{isnt} shown to beat {own} first layers, of the student's size and not trained further."
        return text[0].upper() + text[1:]
    return ""


def _distillation(none: Finding) -> str:
    """Nothing where it is shown to help."""
    if none.answer == VERDICTS["shown below"]:
        return "Distillation is shown to cost quality: the same student is better trained on the labels alone."
    if none.answer == VERDICTS["not shown"]:
        return "Distillation is not shown to beat training the same student on the labels alone."
    return ""


def _reason(uniform: Finding, shuffled: Finding) -> str:
    """Whether Fisher weights are why."""
    rivals = {"uniform layers": uniform, "its own shuffle": shuffled}
    above = [name for name, finding in rivals.items() if finding.good]
    below = [name for name, finding in rivals.items() if finding.answer == VERDICTS["shown below"]]
    trained = shuffled.answer != "not measured"
    if below:
        return f"Fisher weighting is shown to cost quality: Fisher-LD is below {' and '.join(below)}."
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
