"""What the report is made from: the metrics of every stage, read once; a file that is missing names its stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json

MAIN, FAMILIES = "popularity", ("popularity", "uniform")  # of test lists
PRIMARY = "ndcg_10"
STUDENT = "fisher-ld"
DATA_PLOTS = ("history_lengths", "item_popularity")

LABELS = {
    "chance": "chance",
    "popularity": "popularity",
    "item-knn": "item-kNN",
    "zero-shot": "teacher, not adapted",
    "teacher": "teacher, adapted",
    "truncated": "teacher's first layers, head fitted",
    "none": "student, no distillation",
    "uniform": "student, uniform layers",
    "linear": "student, linear depth",
    "exponential": "student, exponential depth",
    "fisher": "student, Fisher, fixed weights",
    "fisher-shuffled": "student, Fisher-LD shuffled",
    "fisher-reversed": "student, Fisher-LD reversed",
    "fisher-ld": "student, Fisher-LD",
}
METRIC_LABELS = {
    "ndcg_10": "NDCG@10",
    "ndcg_5": "NDCG@5",
    "mrr": "MRR",
    "hit_5": "Hit@5",
    "hit_10": "Hit@10",
    "auc": "AUC",
    "diversity_10": "Diversity@10",
}


def label(model: str) -> str:
    return LABELS.get(model, model)


def ordered(models: Mapping[str, Any]) -> list[str]:
    """Baselines first, Fisher-LD last; unknown ones before it."""
    known = list(LABELS)
    return sorted(models, key=lambda m: known.index(m) if m in known else len(known) - 1.5)


@dataclass(frozen=True)
class Results:
    data: dict[str, Any]  # metrics/preprocess.json
    teacher: dict[str, Any]  # metrics/adapt_teacher.json
    gate: dict[str, Any]  # metrics/gate.json
    fisher: dict[str, Any]  # metrics/fisher.json
    evaluate: dict[str, Any]
    ablations: dict[str, Any]
    distill: dict[str, dict[str, Any]]  # student -> metrics/distill/NAME.json
    curves: dict[str, pl.DataFrame]  # teacher and students -> training curve
    weights: dict[str, pl.DataFrame]  # student -> step, layer, weight; those with a layer loss only
    pictures: dict[str, bytes]  # PNG: the data plots and the Fisher profile

    def quality(self, model: str, metric: str, family: str = MAIN) -> dict[str, float] | None:
        """mean, low, high, n; None where it was not measured."""
        for part in (self.evaluate, self.ablations):
            if metric in part["quality"][family].get(model, {}):
                return part["quality"][family][model][metric]
        return None

    def comparison(self, a: str, b: str, family: str = MAIN) -> dict[str, Any] | None:
        """a minus b in NDCG@10 with interval and verdict; None where it was not made."""
        rows = self.evaluate["comparisons"][family] + self.ablations["comparisons"][family]
        return next((row for row in rows if (row["a"], row["b"]) == (a, b)), None)

    def quiet_above(self) -> int | None:
        """After which layer those of the teacher started quietly (`models.teacher.adapt`); None: adapted at once."""
        depths = self.curves["teacher"]["depth"].unique().sort().to_list()
        return depths[0] if len(depths) > 1 else None

    def changing(self, student: str) -> bool:
        """Whether its layer weights changed in training (Eq. 9)."""
        return student in self.weights and self.weights[student]["step"].n_unique() > 1

    def efficiency(self, model: str) -> tuple[dict[str, Any], dict[str, float]]:
        """The row of the model that was timed for `model`, and its ratios to the teacher (none for the teacher)."""
        found = self.evaluate["efficiency"]
        timed = next((name for name, row in found["models"].items() if model in row["stands_for"]), None)
        if timed is None:
            raise UserError(
                f"metrics/evaluate.json times no {model}, only {', '.join(found['models'])}: the report is about it; "
                f"run the stages distill and evaluate with it (dvc repro)"
            )
        return found["models"][timed], found["ratios"].get(timed, {})


def _missing(path: Path, stage: str) -> UserError:
    return UserError(f"{path}: no such file; run the stage that writes it (dvc repro {stage})")


def _json(path: Path, stage: str) -> dict[str, Any]:
    if not path.is_file():
        raise _missing(path, stage)
    return read_json(path)


def _table(path: Path, stage: str, schema: Mapping[str, Any] | None = None) -> pl.DataFrame:
    if not path.is_file():
        raise _missing(path, stage)
    return pl.read_csv(path, infer_schema_length=None, schema_overrides=schema)


def read_results(metrics: Path) -> Results:
    """`metrics`: the folder that the stages write to. Raises UserError naming the stage of a file that is missing."""
    evaluate = _json(metrics / "evaluate.json", "evaluate")
    students = sorted(evaluate["retained"][MAIN])
    if STUDENT not in students:
        raise UserError(
            f"metrics/evaluate.json has the students {', '.join(students)}: the report is about {STUDENT}; "
            f"run dvc repro distill@{STUDENT} evaluate"
        )
    plots = metrics / "plots"
    curves = {"teacher": _table(plots / "training" / "teacher.csv", "adapt_teacher")}
    curves |= {s: _table(plots / "training" / f"{s}.csv", f"distill@{s}") for s in students}
    schema = {"seed": pl.Int64, "step": pl.Int64, "layer": pl.Int64, "weight": pl.Float64}
    weights = {s: _table(plots / "weights" / f"{s}.csv", f"distill@{s}", schema) for s in students}
    paths = {name: (plots / "data" / f"{name}.png", "preprocess") for name in DATA_PLOTS}
    paths["fisher"] = (plots / "fisher.png", "estimate_fisher")
    for path, stage in paths.values():
        if not path.is_file():
            raise _missing(path, stage)
    return Results(
        data=_json(metrics / "preprocess.json", "preprocess"),
        teacher=_json(metrics / "adapt_teacher.json", "adapt_teacher"),
        gate=_json(metrics / "gate.json", "cache_teacher"),
        fisher=_json(metrics / "fisher.json", "estimate_fisher"),
        evaluate=evaluate,
        ablations=_json(metrics / "ablations.json", "ablations"),
        distill={s: _json(metrics / "distill" / f"{s}.json", f"distill@{s}") for s in students},
        curves=curves,
        weights={s: frame for s, frame in weights.items() if len(frame)},
        pictures={name: path.read_bytes() for name, (path, _) in paths.items()},
    )


def final_metrics(results: Results) -> dict[str, Any]:
    """The single numbers that experiments are compared by, nested by topic."""
    found = results.evaluate
    retained = {f: {s: _numbers(row) for s, row in rows.items()} for f, rows in found["retained"].items()}
    quality = {
        family: {model: {name: cell["mean"] for name, cell in row.items()} for model, row in models.items()}
        for family, models in found["quality"].items()
    }
    differences = {
        family: {
            f"{row['a']}-minus-{row['b']}": {k: row[k] for k in ("difference", "low", "high", "p_holm")}
            for part in (found, results.ablations)
            for row in part["comparisons"][family]
        }
        for family in FAMILIES
    }
    fisher = {
        state: {kind: _numbers(value) for kind, value in kinds.items() if isinstance(value, dict)}
        for state, kinds in results.fisher.items()
    }
    return {
        "quality": quality,
        "retained": retained,
        "difference": differences,
        "gate_passed": float(results.gate["passed"]),
        "efficiency": found["efficiency"]["ratios"],
        "fisher": fisher,
    }


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    return {name: value for name, value in row.items() if isinstance(value, int | float)}
