"""The first lines of a report: what a person who decides on a deployment asks, answered in words from intervals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.experiments.peers import smallest_not_below
from fisher_ld.experiments.results import Part
from fisher_ld.report.names import label

UNIT = METRICS[PRIMARY].label
TEACHER = {
    "teacher_over_truncation": "What does the whole teacher add to its first layers, adapted alone?",
    "teacher_over_rival": "What does it add to the best rival without more labels?",
}
STUDENT = {
    "distillation_over_labels": "What do the teacher's answers add to the labels?",
    "layers_over_logits": "What do its layers add to its answers?",
    "fisher_over_uniform": "What do Fisher weights add to equal ones?",
    "fisher_over_shuffled": "What do they add to the same weights shuffled over the layers?",
    "fisher_over_reversed": "What do they add to the same weights reversed?",
}
QUESTIONS = TEACHER | STUDENT  # the comparisons' keys, in the order of the report


@dataclass(frozen=True)
class Finding:
    question: str
    answer: str  # in words
    basis: str  # what it rests on
    verdict: str


def share(row: Mapping[str, float]) -> str:
    return f"{row['share']:.1%} ({row['low']:.1%} to {row['high']:.1%})"


def answer(row: Mapping[str, Any], margin: float) -> str:
    """What a comparison says that `a` adds to `b`. `margin`: evaluate.margin."""
    value, low, high = row["difference"], row["low"], row["high"]
    match row["verdict"]:
        case "shown above":
            return f"adds {value:.3f} {UNIT} ({low:.3f} to {high:.3f})"
        case "shown below":
            return f"costs {-value:.3f} {UNIT} ({-high:.3f} to {-low:.3f})"
        case "equal":
            what = "differs by less than" if low > 0 or high < 0 else "adds nothing: equal within"
            return f"{what} {margin:g} ({low:+.3f} to {high:+.3f})"
        case "not shown":
            size = row["detectable_holm"]  # no difference of two scores is beyond 1
            none = "none could have been" + (", seeds differ" if row["seeds"] > 1 else "")
            some = f"one of {size:.3f} or more would have been" if size < 1 else none
            seen = f"{some} (power 80%)"
            return f"no difference shown ({low:+.3f} to {high:+.3f}); {seen}"
        case verdict:
            return f"{verdict}: {row['why']}"


def basis(row: Mapping[str, Any], a: str, b: str) -> str:
    """The pair, by these names, the size of the sample, and what 80% power would have shown after Holm and alone."""
    seeds = "1 run" if row["seeds"] == 1 else f"{row['seeds']} seeds"
    power = f"80% power for {row['detectable_holm']:.3f}, alone {row['detectable']:.3f}"
    return f"{a} minus {b}; {row['n']:,} users, {seeds}; {power}"


def _finding(part: Part, question: str, row: Mapping[str, Any] | None, margin: float) -> Finding:
    if row is None:
        return Finding(question, "not measured: this run compared no such pair of models", "", "not measured")
    a, b = label(row["a"], part.run), label(row["b"], part.run)
    text = answer(row, margin) + (f"; {b} is itself not shown above chance" if part.at_chance(row["b"]) else "")
    return Finding(question, text, basis(row, a, b), row["verdict"])


def findings(part: Part, student: str, method: str, margin: float) -> list[Finding]:
    """In the order of the report. `method`: the one that the report is about."""
    gate, model = part.gates[student], paths.student(student, method)
    lists = f"on {gate['lists']:,} validation lists, before any test list was scored"
    beside = part.comparison(model, gate["best_rival"])

    def compared(question: str, row: Mapping[str, Any] | None) -> Finding:
        return _finding(part, question, row, margin)

    def asked(questions: Mapping[str, str]) -> list[Finding]:
        return [compared(text, part.asked(key, student)) for key, text in questions.items()]

    return [
        Finding(
            "Did the teacher pass the gate?", "; ".join(gate["reasons"]) or "yes", lists,
            "passed" if gate["passed"] else "not passed",
        ),
        *asked(TEACHER),
        compared("What does it add to the best rival with all labels?", _best_informed(part)),
        _kept(part, model),
        compared("What does the student add to the best rival without more labels?", beside),
        *asked(STUDENT),
        _cost(part, model),
    ]  # fmt: skip


def _kept(part: Part, model: str) -> Finding:
    question, row = "What does the student keep of the teacher?", part.evaluate["retained"][MAIN].get(model)
    if row is None:
        return Finding(question, "nothing", f"the teacher has {UNIT} 0", "")
    above = row["above_chance"]
    of_gain = f"of what it has above chance {share(above)}" if above else "the teacher is not clearly above chance"
    basis = f"{label(model, part.run)}; {of_gain}; {row['n']:,} users"
    if row["why"]:
        return Finding(question, f"not tested: {row['why']}", basis, "not tested")
    return Finding(question, f"{share(row)} of its {UNIT}", basis, "")


def _cost(part: Part, model: str) -> Finding:
    """Speed and size beside the teacher and the smallest model that is not shown below it."""
    question, student = "What does the student save?", model.split("/")[0]
    found, peer = part.efficiency[student], smallest_not_below(part, model)
    ratios, between = found["ratios"][student], found["intervals"][student]["throughput"]
    form = ".1f" if ratios["throughput"] >= 1 else ".2g"
    certain = f" ({between['low']:{form}} to {between['high']:{form}})" if between else ""
    times = f"{ratios['throughput']:{form}}{certain} times the teacher's throughput"
    size = f"{1 / ratios['parameters']:.1%} of the teacher's parameters"
    if peer is None or peer.model == "teacher":
        others = f"every {'smaller' if peer else 'other'} model that was timed"
        alone = f"{others} is shown below it, or was not tested beside it"
        return Finding(question, times, f"{size}; {alone}", "")
    other = label(peer.model, part.run)
    size = f"{size}, {1 / peer.times['parameters']:.2f} times those of that model"
    answer = f"{times}; {peer.times['throughput']:.1f} times that of {other}, the smallest model not shown below it"
    return Finding(question, answer, f"{size} ({peer.quality})", "")


def headline(part: Part, student: str) -> list[str]:
    """What must be said before any number: whether it is a test, what else would do, what it rests on."""
    gate = part.gates[student]
    lines = []
    if not gate["passed"]:
        over = ", and gate.override let the run go on" if gate["overridden"] else ""
        lines.append(f"This is not a test of distillation: the teacher did not pass the gate{over}.")
    lines += [*_worth(part, student), *_better_choice(part)]
    lines.append(rests_on(len(part.run.teacher_seeds)))
    if len(part.run.seeds) == 1:
        lines.append("Every student was trained once: what is shown of a method is shown of that run, not of another.")
    return lines


def rests_on(teachers: int) -> str:
    """What no interval holds: a shallow teacher is adapted once, and students learn from the first of the others."""
    once = "Each teacher" if teachers == 1 else "Each shallow teacher, and the one that students learned from,"
    return f"{once} is one run; no interval holds how far another run of it would lie from it."


def _worth(part: Part, student: str) -> Iterator[str]:
    """Whether the teacher is worth its cost."""
    truncated, rival = (part.asked(key, student) for key in TEACHER)
    if truncated and truncated["verdict"] != "shown above":
        yield f"The teacher is not shown above its own truncation ({label(truncated['b'], part.run)})."
    if rival is None:
        return
    name = f"{label(rival['b'], part.run)}, the best rival without more labels"
    if rival["verdict"] == "shown above":
        yield f"The teacher is shown above {name}."
    elif rival["verdict"] == "shown below":
        yield f"The teacher is not worth its cost: it is shown below {name}."
    else:
        yield f"The teacher is not shown to be worth its cost: it is not shown above {name}."


def _best_informed(part: Part) -> dict[str, Any] | None:
    """The teacher minus that of the rivals with all labels which is best on the validation lists."""
    gate = next(iter(part.gates.values()))
    quality = {name: row["mean_b"] for name, row in gate["rivals"].items() if row["labels"] == "all"}
    return part.comparison("teacher", max(quality, key=quality.__getitem__)) if quality else None


def _better_choice(part: Part) -> Iterator[str]:
    """Where a rival with all labels is above the teacher."""
    row = _best_informed(part)
    if row and row["difference"] < 0:
        shown = "" if row["verdict"] == "shown below" else ", though it is not shown above the teacher"
        yield f"The better choice on this data is {label(row['b'], part.run)}{shown}."
