"""How soon a student has most of what uniform layers gain in the end."""

from __future__ import annotations

import polars as pl

from fisher_ld.config import paths
from fisher_ld.experiments.results import Part

TARGET = 0.95  # of what uniform layers gain over chance, on validation lists
SCORE = "validation_ndcg_10"


def steps_to_target(part: Part) -> dict[str, float | None]:
    """Student -> optimiser steps until a validation first has TARGET of the gain over chance with which uniform layers
    of its shape end, mean over seeds; None where a seed never has. Empty without uniform layers, or where these gain
    nothing."""
    chance = part.quality("chance")
    if chance is None or "uniform" not in part.run.methods:
        return {}
    found: dict[str, float | None] = {}
    for student in part.run.students:
        models = {method: paths.student(student, method) for method in part.run.methods}
        curves = {method: part.curves[model].drop_nulls(SCORE).sort("seed", "step") for method, model in models.items()}
        ends = curves["uniform"].group_by("seed").agg(pl.last(SCORE))[SCORE]
        gain = float(ends.to_numpy().mean()) - chance["mean"]
        if gain > 0:
            reached = pl.col(SCORE) >= chance["mean"] + TARGET * gain
            for method, curve in curves.items():
                first = curve.group_by("seed").agg(pl.col("step").filter(reached).first())["step"]
                found[models[method]] = None if first.has_nulls() else float(first.to_numpy().mean())
    return found
