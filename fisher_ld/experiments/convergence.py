"""How soon a student has most of what uniform layers gain in the end."""

from __future__ import annotations

from statistics import mean

import polars as pl

from fisher_ld.config import paths
from fisher_ld.config.params import methods_of
from fisher_ld.experiments.results import Part

TARGET = 0.95  # of what uniform layers gain over chance, on validation lists
SCORE = "validation_ndcg_10"


def steps_to_target(part: Part) -> dict[str, list[int | None]]:
    """Student -> of each training seed the optimiser steps until a validation first has TARGET of the gain over chance
    with which uniform layers of its shape end, on average over seeds; None where none has. Empty without uniform
    layers, or where these gain nothing."""
    chance = part.quality("chance")
    if chance is None:
        return {}
    found: dict[str, list[int | None]] = {}
    for student in part.run.students:
        methods = methods_of(part.run, student)
        if "uniform" not in methods:
            continue
        models = [paths.student(student, method) for method in methods]
        after = [part.curves[model].filter(pl.col("step") > 0).drop_nulls(SCORE) for model in models]
        curves = {model: curve.sort("seed", "step") for model, curve in zip(models, after, strict=True)}
        uniform = curves[paths.student(student, "uniform")]
        gain = mean(uniform.filter(seed=seed)[SCORE][-1] for seed in part.run.seeds) - chance["mean"]
        if gain <= 0:
            continue
        for model, curve in curves.items():
            there = curve.filter(pl.col(SCORE) >= chance["mean"] + TARGET * gain)
            steps = [there.filter(seed=seed)["step"] for seed in part.run.seeds]
            found[model] = [int(of_seed[0]) if len(of_seed) else None for of_seed in steps]
    return found
