"""How soon a student has most of what uniform layers gain in the end."""

from __future__ import annotations

from collections.abc import Mapping
from statistics import mean

import polars as pl

from fisher_ld.config import paths
from fisher_ld.experiments.results import Part

TARGET = 0.95  # of what uniform layers gain over chance, on validation lists
SCORE = "validation_ndcg_10"


def steps_to_target(part: Part) -> dict[str, float | None]:
    """Student -> optimiser steps until a validation first has TARGET of the gain over chance with which uniform layers
    of its shape end, mean over seeds; None where a seed never has. Empty without uniform layers, or where these gain
    nothing."""
    found: dict[str, float | None] = {}
    chance = part.quality("chance")
    if chance is None or "uniform" not in part.run.methods:
        return found
    for student in part.run.students:
        uniform = _by_seed(part.curves[paths.student(student, "uniform")])
        gain = mean(_validated(curve)[SCORE][-1] for curve in uniform.values()) - chance["mean"]
        if gain > 0:
            wanted = chance["mean"] + TARGET * gain
            for method in part.run.methods:
                model = paths.student(student, method)
                found[model] = _mean_first(_by_seed(part.curves[model]), wanted)
    return found


def _by_seed(curves: pl.DataFrame) -> Mapping[object, pl.DataFrame]:
    return curves.partition_by("seed", as_dict=True)


def _validated(curve: pl.DataFrame) -> pl.DataFrame:
    return curve.drop_nulls(SCORE).sort("step")


def _mean_first(curves: Mapping[object, pl.DataFrame], wanted: float) -> float | None:
    first = [_validated(curve).filter(pl.col(SCORE) >= wanted)["step"].min() for curve in curves.values()]
    reached = [float(step) for step in first if isinstance(step, int | float)]
    return mean(reached) if len(reached) == len(first) else None
