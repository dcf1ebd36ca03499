"""What was trained on what, and whether anything happened in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fisher_ld.config.params import Params
from fisher_ld.distillation.methods import METHODS
from fisher_ld.experiments.convergence import TARGET
from fisher_ld.experiments.record import OUTCOME, outcomes
from fisher_ld.experiments.results import Part
from fisher_ld.report.blocks import Block, Cell, Heading, Table, Text
from fisher_ld.report.names import label, ordered, short

BUDGET = (
    "Such a budget of labels holds where a teacher is too dear to train on more, where few users' labels are known, or "
    "where items are new. The histories of transfer windows are likes too, which elsewhere would be labels."
)


def recipe(part: Part, params: Params) -> list[Block]:
    scored = (
        f"This run scored the test lists {part.scored:,} times, a model's run and a family each. "
        "What is chosen within a run is chosen on validation lists."
    )
    header = ["what was read", "windows", "lists", "candidates of a list", "by whom"]
    windows = part.data["windows"]
    budget = f"{BUDGET} " if windows["labelled"] < windows["all"] else ""
    return [
        Heading("Recipe: what was trained on what"),
        Table(header, _read(part), words=(0, 4)),
        Table(["model", "steps", "runs", "a step", "learns from"], _trained(part, params), words=(0, 3, 4)),
        Text(budget + scored),
    ]


def _read(part: Part) -> list[list[str]]:
    found, lists = part.data, part.data["lists"]

    def row(what: str, windows: int | None, count: int, examples: int | None, whom: str) -> list[str]:
        shown = "" if windows is None else f"{windows:,}"
        return [what, shown, f"{count:,}", f"{examples / count:.0f}" if count and examples else "", whom]

    windows, labels, read = found["windows"], found["labels"], found["read"]
    return [
        row(
            "labels", windows["labelled"], labels["train"], found["examples"]["labelled"],
            "teacher, shallow teachers, students, rivals with the same labels",
        ),
        row(
            "transfer: the teacher's answers alone", windows["transfer"], lists["transfer"],
            found["examples"]["transfer"], "students with a teacher",
        ),
        row("all labels", windows["all"], lists["train"], None, "rivals with all labels"),
        row("validation labels", None, labels["val"], found["examples"]["val"], "gate, settings, choice of a step"),
        ["read by both", f"{read['both']:,}", "", "", f"teacher and students, which read {read['student']:,} windows"],
    ]  # fmt: skip


def _trained(part: Part, params: Params) -> list[list[str]]:
    """A row a model; students that learn alike share one."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for model in ordered(part.fits, part.run):
        shape = model.split("/")[0]
        alike.setdefault((shape, *_steps(part.fits[model]), *_lessons(model, part, params)), []).append(model)
    names = {m: label(m, part.run) if len(group) == 1 else short(m) for group in alike.values() for m in group}
    shape = "student" if len(part.run.students) == 1 else "student {}"
    return [
        [(f"{shape.format(key[0])}: " if len(group) > 1 else "") + "; ".join(names[m] for m in group), *key[1:]]
        for key, group in alike.items()
    ]


def _lessons(model: str, part: Part, params: Params) -> tuple[str, str]:
    """What a step reads, and what is learned from it."""
    method, distill = METHODS.get(model.rpartition("/")[2]), params.distill
    if method is None:
        return _count(params.teacher.adapt.batch_users, "labelled"), "labels"
    labelled = _count(distill.batch_users, "labelled")
    inside = sorted(method.signals - {"logits"})
    taught = [
        *(["labels"] if method.labelled else []),
        *(["teacher's answers"] if "logits" in method.signals else []),
        *([f"teacher's {' and '.join(inside)}"] if inside else []),
    ]
    transfer = method.signals and part.data["windows"]["transfer"]
    windows = [labelled, *([_count(distill.transfer_users, "transfer")] if transfer else [])]
    return ", ".join(windows), ", ".join(taught)


def _count(windows: int, kind: str) -> str:
    return f"{windows} {kind} window{'s' * (windows > 1)}"


def _steps(fits: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """The number of steps, or which step the weights are of where it is not the last; and the number of runs."""
    steps = {
        f"{fit['steps']:,}" if fit["best_step"] == fit["steps"] else f"{fit['best_step']:,} of {fit['steps']:,}"
        for fit in fits
    }
    return ", ".join(sorted(steps)), str(len(fits))


def outcome(part: Part) -> list[Block]:
    """Did anything happen? Of every student, means over its seeds."""
    found = outcomes(part)
    rows = [[label(model, part.run), *done(found[model])] for model in ordered(found, part.run)]
    text = (
        "Weights moved: their distance from the start, as a share of its norm. The layer loss is a share of the "
        "constant predictor's: at 1 a student knows the mean and no more. A student that did not move, or whose layer "
        "loss stays above 1, is no test: its comparisons read “not tested”. Every student has the weights of its best "
        "validation, and its layer loss is of the steps before it. A gain that is left at the end says that more steps "
        f"would help. The last column is the first validation with {TARGET:.0%} of the gain over chance with which "
        "uniform layers end on average, of each seed in turn; it is no finer than distill.eval_every."
    )
    return [Heading("Did anything happen?"), Table(["student", *DONE], rows), Text(text)]


def strengths(part: Part) -> list[Block]:
    """What each method tried and took."""
    if not part.strengths:
        return []
    header, *rows = strength_rows(part.strengths)
    named: list[Sequence[Cell]] = [[label(model, part.run), *row] for model, *row in rows]
    return [Heading("How much is taken from the teacher"), Table(header, named), Text(tried(part.strengths))]


def tried(found: Mapping[str, Any]) -> str:
    """What stands below `strength_rows`."""
    text = (
        "Validation NDCG@10 of a training with each factor of trials.strength, all with one seed: times "
        "distill.layer_weight, or distill.output_weight of a method without layers. All seeds then take the best."
    )
    factors = [trial["strength"] for row in found.values() for trial in row["trials"]]
    taken = [row["strength"] for row in found.values()]
    ends = [(name, taken.count(end)) for name, end in (("least", min(factors)), ("largest", max(factors)))]
    at_ends = " and ".join(f"{count} took the {name}" for name, count in ends if count)
    return f"{text} {at_ends}, beyond which others may be better." if at_ends else text


def strength_rows(found: Mapping[str, Any]) -> list[list[str]]:
    """Of what `Part.strengths` says: the header, and a row a model."""
    factors = sorted({trial["strength"] for row in found.values() for trial in row["trials"]})
    rows = [["student", *(f"{factor:g}x" for factor in factors), "taken"]]
    for model, row in found.items():
        scores = {trial["strength"]: trial["validation_ndcg_10"] for trial in row["trials"]}
        rows.append([model, *(f"{scores[factor]:.3f}" for factor in factors), f"{row['strength']:g}x"])
    return rows


DONE = (
    "weights moved", "lists with the start's order", "layer loss", "validation at the start", "of the weights kept",
    "gain of the last validation", "steps to uniform layers' end",
)  # fmt: skip


def done(means: Mapping[str, Any]) -> list[str]:
    """The columns DONE of what `outcomes` says of a student."""
    forms = {"moved": ".1%", "same_order": ".1%", "gain_last": "+.3f"}

    def told(key: str, value: Any) -> str:
        if isinstance(value, list):
            return ", ".join("never" if steps is None else f"{steps:,}" for steps in value)
        return "" if value is None else f"{value:{forms.get(key, '.3f')}}"

    return [told(key, means.get(key)) for key in OUTCOME]
