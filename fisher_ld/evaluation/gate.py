"""The gate: is the adapted teacher worth distilling? Asked on the validation lists, for each shape of students."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from fisher_ld.batches.lists import read_lists
from fisher_ld.config import paths
from fisher_ld.config.params import Rivals, Student
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.config.teacher_fit import size_in_layers
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.baselines.catalogue import rivals_of
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.evaluation.per_user import Frames, paired, read_categories, user_metrics
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.significance import compare, verdict

DRAWS = 0.01, 5000  # margin, permutations; fixed: those of `evaluate` re-run no student


def judge(frames: Frames, depth: int, labels: Mapping[str, str], seed: int) -> dict[str, Any]:
    """Teacher minus its own first `depth` layers, adapted alone, and minus each rival, in PRIMARY. `labels`: rival ->
    which it learned from. It passes where it is shown above that truncation (else there is nothing to distil) and not
    shown below the best rival that had no more labels (else there is something better); each verdict stands alone,
    without Holm. `reasons` says why it does not. `tie`: it is shown neither above nor below that rival."""
    rows = {}
    for name in (paths.truncated(depth), *labels):
        found = compare(*paired(frames, "teacher", name), *DRAWS, seed)
        rows[name] = {**asdict(found), "verdict": verdict(found, found.p)}
    truncated = rows.pop(paths.truncated(depth))
    best = max((name for name, what in labels.items() if what != "all"), key=lambda name: rows[name]["mean_b"])
    rival, reasons = rows[best], []
    if truncated["verdict"] != "shown above":
        whom = f"its own {paths.first_layers(depth)}, adapted alone on the same labels"
        reasons.append(f"{_sides(truncated, 'is not shown above', whom)}, so that there is nothing to distil")
    if rival["verdict"] == "shown below":
        reasons.append(f"{_sides(rival, 'is shown below', best)}, which has no more labels and is the better choice")
    return {
        "passed": not reasons,
        "tie": rival["verdict"] not in ("shown above", "shown below"),
        "metric": PRIMARY,
        "teacher": truncated["mean_a"],
        "truncated": {"depth": depth, **truncated},
        "best_rival": best,
        "rivals": {name: {"labels": labels[name], **row} for name, row in rows.items()},
        "reasons": reasons,
    }


def _sides(row: Mapping[str, Any], verb: str, whom: str) -> str:
    return (
        f"the teacher ({METRICS[PRIMARY].label} {row['mean_a']:.3f}) {verb} {whom} ({row['mean_b']:.3f}, difference "
        f"{row['difference']:.3f}, 95% interval {row['low']:.3f} to {row['high']:.3f})"
    )


def gate(
    data: DataPaths, student: Student, rivals: Rivals, teacher_seed: int, override: bool, seed: int
) -> dict[str, Any]:
    """`judge` on all validation lists, for students of this shape. Prints the verdict; raises UserError where the
    teacher does not pass, unless `override`, and where the truncation of the students' size was not adapted."""
    depth = size_in_layers(student, read_json(BASE / "config.json"))
    truncated = paths.truncated(depth)
    if not data.validation(truncated).is_file():
        raise UserError(
            f"{data.validation(truncated)}: no such file: the gate compares the teacher with its own "
            f"{paths.first_layers(depth)}, the students' size; add {truncated} to run.shallow"
        )
    labels = {paths.rival(name): row.labels for name, row in rivals_of(rivals).items()}
    lists, categories = read_lists(data.processed, "val"), read_categories(data.processed)
    models = [("teacher", teacher_seed), (truncated, 0), *((name, 0) for name in labels)]
    scores = {model: read_scores(data.validation(model, model_seed), lists) for model, model_seed in models}
    found = judge({m: [user_metrics(lists, s, categories)] for m, s in scores.items()}, depth, labels, seed)
    found |= {"overridden": override and not found["passed"], "lists": len(lists)}
    reasons = "; ".join(found["reasons"])
    if not found["passed"] and not override:
        raise UserError(
            f"on {len(lists)} validation lists {reasons}. Give the teacher more labels (data.labelled_windows), more "
            "steps (teacher.adapt.steps), another rate (teacher.adapt.learning_rate) or another item_text; "
            "gate.override: true goes on all the same, and what follows is not a test of distillation."
        )
    what = "passed" if found["passed"] else f"overridden (gate.override), although {reasons}"
    tie = f", not shown to be worth its cost beside {found['best_rival']}" if found["passed"] and found["tie"] else ""
    print(f"gate {what}: teacher {METRICS[PRIMARY].label} {found['teacher']:.3f} on {len(lists)} validation lists{tie}")
    return found
