"""The gate: is the adapted teacher worth distilling? Asked on the validation lists, for each shape of students."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fisher_ld.batches.lists import read_lists
from fisher_ld.config import paths
from fisher_ld.config.params import Student
from fisher_ld.config.paths import BASE, DataPaths
from fisher_ld.config.teacher_fit import size_in_layers
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json
from fisher_ld.evaluation.baselines.catalogue import RIVALS
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.evaluation.per_user import Frames, paired, read_categories, user_metrics
from fisher_ld.evaluation.scores import read_scores
from fisher_ld.evaluation.significance import compare, verdict

DRAWS = 2000, 5000  # bootstrap samples and permutations; fixed: those of `evaluate` re-run no student


def judge(frames: Frames, depth: int, seed: int) -> dict[str, Any]:
    """Teacher minus each rival and minus its own first `depth` layers, adapted alone, in PRIMARY. It passes where it is
    shown above that truncation, and not shown below the best rival; each verdict stands alone, without Holm. `reasons`
    says why it does not."""
    label = METRICS[PRIMARY].label
    found = {name: compare(*paired(frames, "teacher", name), *DRAWS, seed) for name in frames if name != "teacher"}
    truncated = found.pop(paths.truncated(depth))
    best, rival = max(found.items(), key=lambda entry: entry[1].mean_b)
    reasons = []
    if verdict(truncated, truncated.p_perm) != "shown above":
        reasons.append(
            f"the teacher ({label} {truncated.mean_a:.3f}) is not shown above its own first {depth} layers, adapted "
            f"alone ({truncated.mean_b:.3f}, difference {truncated.difference:.3f}, 95% interval {truncated.low:.3f} "
            f"to {truncated.high:.3f})"
        )
    if verdict(rival, rival.p_perm) == "shown below":
        reasons.append(
            f"the teacher ({label} {rival.mean_a:.3f}) is shown below {best} ({rival.mean_b:.3f}, difference "
            f"{rival.difference:.3f}, 95% interval {rival.low:.3f} to {rival.high:.3f})"
        )
    return {
        "passed": not reasons,
        "metric": PRIMARY,
        "teacher": float(frames["teacher"][0][PRIMARY].to_numpy().mean()),
        "rivals": {name: asdict(comparison) for name, comparison in found.items()},
        "truncated": {"depth": depth, **asdict(truncated)},
        "reasons": reasons,
    }


def gate(data: DataPaths, student: Student, teacher_seed: int, override: bool, seed: int) -> dict[str, Any]:
    """`judge` on all validation lists, for students of this shape. Prints the verdict; raises UserError where the
    teacher does not pass, unless `override`, and where the truncation of the students' size was not adapted."""
    depth = size_in_layers(student, read_json(BASE / "config.json"))
    truncated = paths.truncated(depth)
    if not data.validation(truncated).is_file():
        raise UserError(
            f"{data.validation(truncated)}: no such file: the gate compares the teacher with its own first {depth} "
            f"layers, which are the students' size; add {depth} to run.depths"
        )
    lists, categories = read_lists(data.processed, "val"), read_categories(data.processed)
    models = [("teacher", teacher_seed), (truncated, 0), *((paths.rival(name), 0) for name in RIVALS)]
    scores = {model: read_scores(data.validation(model, model_seed), lists) for model, model_seed in models}
    found = judge({m: [user_metrics(lists, s, categories)] for m, s in scores.items()}, depth, seed)
    found |= {"overridden": override and not found["passed"], "lists": len(lists)}
    reasons = "; ".join(found["reasons"])
    if not found["passed"] and not override:
        raise UserError(
            f"on {len(lists)} validation lists {reasons}: it is not worth distilling. Give it more steps "
            "(teacher.adapt.steps), another rate (teacher.adapt.learning_rate) or item text (data.item_text); "
            "gate.override: true goes on all the same."
        )
    what = "passed" if found["passed"] else f"overridden (gate.override), although {reasons}"
    print(f"gate {what}: teacher {METRICS[PRIMARY].label} {found['teacher']:.3f} on {len(lists)} validation lists")
    return found
