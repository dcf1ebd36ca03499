"""What experiments are compared by: a few single numbers, and one table a topic for `dvc plots`."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, zip_longest
from typing import Any

import polars as pl

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.config.params import methods_of, trained
from fisher_ld.experiments.results import Part, Results
from fisher_ld.report.findings import QUESTIONS
from fisher_ld.report.names import label, ordered, short

MOST = 30  # numbers that a person can look at
Number = tuple[str, str, float]  # topic, model, value


def summary(results: Results) -> dict[str, Any]:
    """Topic -> model -> number, MOST at most: the first of every data set and student before the second of any. Models
    are named by data set and student where the run has several. Prints what is left out."""
    cells = [(part, student) for part in results.parts.values() for student in results.run.students]
    numbers = [[(part, student, *n) for n in _numbers(part, student, results.method)] for part, student in cells]
    found: dict[tuple[str, ...], float] = {}
    for entry in chain.from_iterable(zip_longest(*numbers)):
        if entry is not None:
            part, student, topic, model, value = entry
            names = (part.name, *([student] if "/" in model else [])) if results.several else ()
            found.setdefault((topic, *names, model.rpartition("/")[2] if "/" in model else model), float(value))
    if left_out := list(found)[MOST:]:
        print(f"summary: {len(left_out)} numbers beyond {MOST} left out, the first is {'/'.join(left_out[0])}")
    result: dict[str, Any] = {}
    for (*names, last), value in list(found.items())[:MOST]:
        inner = result
        for name in names:
            inner = inner.setdefault(name, {})
        inner[last] = value
    return result


def best_student(part: Part) -> tuple[str, int, dict[str, str | float]]:
    """The student and the seed that are best on validation lists, and what to know of it."""
    found = [
        (score, model, seed)
        for model, scores in part.evaluate["validation"].items()
        for seed, score in zip(trained(part.run)[model], scores, strict=True)
    ]
    validation, model, seed = max(found, key=lambda entry: entry[0])
    student, method = model.split("/")
    quality = part.evaluate["quality"][MAIN]
    tags = {"student": student, "method": method, "seed": seed, "validation_ndcg_10": validation}
    tags["test_ndcg_10"] = part.evaluate["seeds"][MAIN][model][trained(part.run)[model].index(seed)]
    tags |= {f"test_{name}_over_seeds": row["mean"] for name, row in quality[model].items()}
    return model, seed, tags | {"teacher_test_ndcg_10": part.evaluate["seeds"][MAIN]["teacher"][0]}


def _numbers(part: Part, student: str, method: str) -> Iterator[Number]:
    """The most important first. Of a student's own the model is STUDENT/NAME."""
    quality, retained = part.evaluate["quality"][MAIN], part.evaluate["retained"][MAIN]
    first, *others = sorted(methods_of(part.run, student), key=lambda name: name != method)
    ratios = part.efficiency[student]["ratios"][student]

    def of(name: str) -> Iterator[Number]:
        model = f"{student}/{name}"
        yield "ndcg_10", model, quality[model]["ndcg_10"]["mean"]
        if model in retained:  # not where the teacher has nothing
            yield "kept", model, retained[model]["share"]

    yield "gate_passed", student, part.gates[student]["passed"]
    yield from of(first)
    yield "ndcg_10", "teacher", quality["teacher"]["ndcg_10"]["mean"]
    yield "ndcg_10", "best_rival", quality[part.gates[student]["best_rival"]]["ndcg_10"]["mean"]
    yield "speedup", student, ratios["throughput"]
    for key in QUESTIONS:
        if row := part.asked(key, student):
            yield "difference", key if row["student"] is None else f"{student}/{key}", row["difference"]
    yield "fewer_parameters", student, ratios["parameters"]
    for name in others:
        yield from of(name)


def plots(results: Results) -> dict[str, pl.DataFrame]:
    """Name -> all cells in one table: `quality`, `strategies` (differences in NDCG@10), `profile`, `training` (where
    validation was taken) and `weights`."""
    found: dict[str, list[pl.DataFrame]] = {}
    for part in results.parts.values():
        for name, frame in _frames(part, results.several).items():
            found.setdefault(name, []).append(frame.select(pl.lit(part.name).alias("data"), pl.all()))
    return {name: pl.concat(frames, how="diagonal_relaxed") for name, frames in found.items()}


def _frames(part: Part, several: bool) -> dict[str, pl.DataFrame]:
    def name(model: str) -> str:
        return f"{part.name}: {label(model, part.run)}" if len(part.run.data) > 1 else label(model, part.run)

    quality = [
        {"model": name(model), "family": family, "metric": metric, "value": cell["mean"], "low": cell["low"]}
        | {"high": cell["high"], "chance": models["chance"][metric]["mean"]}
        for family, models in part.evaluate["quality"].items()
        for model in ordered(models, part.run)
        if model != "chance"
        for metric, cell in models[model].items()
    ]
    strategies = [
        {"pair": f"{name(model)} over {short(uniform)}"}
        | {key: row[key] for key in ("difference", "low", "high", "p_holm", "verdict")}
        for student in part.run.students
        for model in part.weighted(student)
        for uniform in [paths.student(student, "uniform")]
        if (row := part.comparison(model, uniform))
    ]
    schema = {"pair": pl.String, **dict.fromkeys(("difference", "low", "high", "p_holm"), pl.Float64)}
    curves = [
        frame.filter(pl.col("validation_ndcg_10").is_not_null()).select(pl.lit(name(model)).alias("model"), pl.all())
        for model, frame in part.curves.items()
    ]
    weights = [frame.select(pl.lit(name(m)).alias("model"), pl.all()) for m, frame in part.weights.items()]
    return {
        "quality": pl.DataFrame(quality),
        "strategies": pl.DataFrame(strategies, schema=schema | {"verdict": pl.String}),
        "profile": part.profile,
        "training": pl.concat(curves, how="diagonal_relaxed"),
        "weights": pl.concat(weights) if weights else pl.DataFrame(schema=["model", "seed", "step", "layer", "weight"]),
    }
