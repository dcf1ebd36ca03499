"""How soon a student has most of what uniform layers gain in the end."""

from __future__ import annotations

import polars as pl

from fisher_ld.config import paths
from fisher_ld.experiments.results import Part

TARGET = 0.95  # of what uniform layers gain over chance, on validation lists
SCORE = "validation_ndcg_10"


def steps_to_target(part: Part) -> dict[str, list[int | None]]:
    """Student -> of each training seed the optimiser steps until a validation first has TARGET of the gain over chance
    with which uniform layers of its shape and seed end; None where none has. Empty without uniform layers, or where
    these gain nothing in some seed."""
    chance = part.quality("chance")
    if chance is None or "uniform" not in part.run.methods:
        return {}
    found: dict[str, list[int | None]] = {}
    for student in part.run.students:
        models = [paths.student(student, method) for method in part.run.methods]
        after = [part.curves[model].filter(pl.col("step") > 0).drop_nulls(SCORE) for model in models]
        curves = {model: curve.sort("seed", "step") for model, curve in zip(models, after, strict=True)}
        uniform = curves[paths.student(student, "uniform")]
        gains = {seed: uniform.filter(seed=seed)[SCORE][-1] - chance["mean"] for seed in part.run.seeds}
        if min(gains.values()) <= 0:
            continue
        for model, curve in curves.items():
            of_seed = {
                seed: curve.filter(pl.col("seed") == seed, pl.col(SCORE) >= chance["mean"] + TARGET * gain)["step"]
                for seed, gain in gains.items()
            }
            found[model] = [int(steps[0]) if len(steps) else None for steps in of_seed.values()]
    return found
