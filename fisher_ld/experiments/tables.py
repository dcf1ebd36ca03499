"""The tables of the paper, filled from a run: which cell holds what is said in paper.yaml, one function fills any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from statistics import mean
from typing import Any

from fisher_ld.batches.lists import MAIN
from fisher_ld.config import paths
from fisher_ld.config.params import methods_of
from fisher_ld.core.files import read_yaml
from fisher_ld.distillation.methods import METHODS
from fisher_ld.evaluation.metrics import catalogue as metrics
from fisher_ld.experiments.results import Part, Results

FORM = "{:,.4g}"  # of a number that says no other
TESTED = {"name": "NDCG@10", "measure": "ndcg_10", "form": "{:.3f}"}
BEST, NEAR = "best", "not shown below it"  # marks of NDCG@10
Reading = tuple[float, float, float]  # a value and its interval, without width where it has none


class Empty(Exception):
    """Why a run has nothing to put beside a number of the paper."""


@cache
def paper() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("paper.yaml"))


def locate(results: Results, spec: Mapping[str, Any]) -> tuple[Part, str, str]:
    """Part, student and full model name of a cell; what it does not name is the first of the run. Raises Empty."""
    run, model = results.run, spec["model"]
    data, student = spec.get("data") or run.data[0], spec.get("student") or run.students[0]
    if data not in run.data:
        raise Empty(f"no data set {data} in run.data")
    if student not in run.students:
        raise Empty(spec.get("lacking", f"no student shape {student} in run.students"))
    if paths.is_shallow(model) and model not in run.shallow:
        raise Empty("not among run.shallow")
    if model == "teacher" or paths.is_shallow(model) or model.startswith("rivals/"):
        return results.parts[data], student, model
    if model not in METHODS:
        raise Empty(spec.get("lacking", "no such method here yet"))
    if model not in methods_of(run, student):
        raise Empty("not among the methods of this student")
    return results.parts[data], student, paths.student(student, model)


def _timed(name: str, part: Part, student: str, model: str) -> Reading:
    """One of EFFICIENCY, of what was timed for `model`: all methods of a shape have one architecture. Raises Empty."""
    found, timed = part.efficiency[student], model.split("/")[0]
    if timed not in found["models"]:
        raise Empty("not measured on this machine")
    value = EFFICIENCY[name](found["models"][timed], found["ratios"].get(timed, {}))
    between = found["intervals"].get(timed, {}).get(TIMED.get(name))
    return (value, between["low"], between["high"]) if between else (value, value, value)


def _number(value: Any) -> float:
    if not isinstance(value, int | float):
        raise Empty("not measured on this machine")
    return value


def _memory(row: Mapping[str, Any]) -> float:
    """GB."""
    memory = row["memory"]
    return _number(memory["peak_mib"] if isinstance(memory, Mapping) else memory) * 2**20 / 1e9


Times = Mapping[str, float]
EFFICIENCY: Mapping[str, Callable[[Mapping[str, Any], Times], float]] = {
    "latency_ms": lambda row, times: row["latency_p50_ms"],
    "memory_gb": lambda row, times: _memory(row),
    "parameters_m": lambda row, times: row["parameters"]["total"] / 1e6,
    "queries_per_second": lambda row, times: row["queries_per_second"],
    "energy_wh": lambda row, times: _number(row["joules_per_query"]) / 3.6,  # of 1,000 queries
    "latency_ratio": lambda row, times: _number(times.get("latency_p50")),
    "throughput_ratio": lambda row, times: _number(times.get("throughput")),
    "memory_ratio": lambda row, times: _number(times.get("peak_memory")),
    "energy_ratio": lambda row, times: _number(times.get("energy")),
    "reduction": lambda row, times: 1 - 1 / _number(times.get("parameters")),
    "memory_reduction": lambda row, times: 1 - 1 / _number(times.get("peak_memory")),
}
TIMED = {"latency_ratio": "latency_p50", "throughput_ratio": "throughput"}  # those that have intervals
TRAINING: Mapping[str, Callable[[Mapping[str, Any]], float]] = {  # of one seed
    "training_hours": lambda cost: cost["seconds"] / 3600,
    "training_memory_gb": lambda cost: cost["peak_memory_mib"] * 2**20 / 1e9,
}
COUNTS = ("users", "items")  # after all filters
MEASURES = (*metrics.METRICS, *EFFICIENCY, *TRAINING, *COUNTS, "retained")


def measure(name: str, part: Part, student: str, model: str) -> Reading:
    """One of MEASURES. Raises Empty where the run does not have it, ValueError for another name."""
    if name in EFFICIENCY:
        return _timed(name, part, student, model)
    if name in TRAINING:
        if model not in part.costs:
            raise Empty("not measured")
        value = mean(map(TRAINING[name], part.costs[model]))
        return value, value, value
    if name in COUNTS:
        value = part.data["filters"][-1][name]
        return value, value, value
    if name == "retained":
        row = part.evaluate["retained"][MAIN].get(model)
        if row is None:
            raise Empty("not measured")
        if row["why"]:
            raise Empty(f"not tested: {row['why']}")
        return row["share"], row["low"], row["high"]
    if name not in metrics.METRICS:
        raise ValueError(f"expected one of {', '.join(MEASURES)}, got the measure {name}")
    found = part.quality(model, name)
    if found is None:
        raise Empty("not measured")
    return found["mean"], found["low"], found["high"]


def fill(table: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """A table of paper.yaml with what the run has: name, title, columns, rows of `name`, `own_start` (it does not share
    that of the other rows) and `cells`, a cell a column.
    A table that has `shared` also has `examples`.
    A cell has `paper`, the number as printed there, and `ours`, `interval` (text, None where there is none), `value`,
    `low`, `high` and what `_compared` says; or `empty`, why not. Columns and rows of our own have no `paper`: a table
    that is `tested` has NDCG@10 last, the metric that comparisons are made in."""
    columns, own_columns = table["columns"], [TESTED] if table.get("tested") else []
    beside = {"lacking": "of the paper's user"} if "shared" in table else {}
    rows = []
    for row in table["rows"]:
        cells = []
        numbers = [*row.get("paper", [None] * len(columns)), *(None for _ in own_columns)]
        for column, printed in zip([*columns, *own_columns], numbers, strict=True):
            own = printed if isinstance(printed, Mapping) else {"paper": printed}
            cells.append(_cell({**beside, **column, **row, **own}, results))
        rows.append({"name": row["name"], "own_start": row.get("own_start", False), "cells": cells})
    return {
        **{key: table[key] for key in ("name", "title")},
        "columns": [column["name"] for column in (*columns, *own_columns)],
        "rows": rows,
        **({"examples": _examples(table, results)} if "shared" in table else {}),
    }


def _examples(table: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """What `evaluation.examples` says, with a list in place of its `models`: of each column `top` and `rank`, or
    `empty`. `shared`: of each column ours (None: not run) and the paper's."""
    found = results.parts[results.run.data[0]].examples
    models, reasons = [], []
    for column in table["columns"]:
        try:
            models.append(locate(results, column)[2])
            reasons.append({})
        except Empty as reason:
            models.append(None)
            reasons.append({"empty": str(reason)})
    users = [
        user | {"models": [user["models"].get(model, reason) for model, reason in zip(models, reasons, strict=True)]}
        for user in found["users"]
    ]
    shared = [(found["shared"].get(model), paper) for model, paper in zip(models, table["shared"], strict=True)]
    return found | {"users": users, "shared": shared}


def _cell(spec: Mapping[str, Any], results: Results) -> dict[str, Any]:
    form = spec.get("form", FORM)
    printed = None if spec["paper"] is None else form.format(spec["paper"])
    cell: dict[str, Any] = {"paper": printed, "empty": None}
    cell |= dict.fromkeys(("ours", "interval", "value", "low", "high", "spread", "p", "best", "mark"))
    try:
        if "measure" not in spec:
            raise Empty(spec.get("lacking", "no such experiment yet"))
        place = locate(results, spec)
        value, low, high = measure(spec["measure"], *place)
    except Empty as reason:
        return cell | {"empty": str(reason)}
    interval = f"{form.format(low)} to {form.format(high)}" if low < high else None
    cell |= {"ours": form.format(value), "interval": interval, "value": value, "low": low, "high": high}
    return cell | _compared(spec["measure"], *place)


def _compared(name: str, part: Part, student: str, model: str) -> dict[str, Any]:
    """Of a metric `spread`, the standard deviation over training seeds. Of a student's NDCG@10, which is tested, also
    `p` against uniform layers after Holm, `best`, the method that validation lists chose, and `mark`, whether the
    model is that one or not shown below it, where a student at chance would have been."""
    if name not in metrics.METRICS:
        return {}
    spread = {"spread": part.evaluate["quality"][MAIN][model][name]["spread"]}
    if name != metrics.PRIMARY or not model.startswith(f"{student}/"):
        return spread
    best, uniform = part.best(student), part.comparison(model, paths.student(student, "uniform"))
    beside = part.comparison(model, best)
    mark = BEST if model == best else NEAR if beside and _near(part, beside) else None
    name = METHODS[best.partition("/")[2]].label + (f" ({student})" if len(part.run.students) > 1 else "")
    p = uniform["p_holm"] if uniform and uniform["verdict"] != "not tested" else None
    return spread | {"p": p, "best": name, "mark": mark}


def _near(part: Part, beside: Mapping[str, Any]) -> bool:
    """Of a model and the best one."""
    chance = part.quality("chance")
    whole = beside["mean_b"] - chance["mean"] if chance else 1.0
    return beside["verdict"] not in ("shown below", "not tested") and beside["detectable_holm"] < whole
