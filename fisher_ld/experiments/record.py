"""Collects the numbers of a run from metrics/ into docs/results/PROFILE.json, with the commit and the machine.

python -m fisher_ld.experiments.record PROFILE      after `dvc repro`; then fisher_ld.report.results_page
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import reduce
from itertools import product
from pathlib import Path
from statistics import mean
from typing import Any

from fisher_ld.config.params import Run
from fisher_ld.config.paths import FURTHER, PARAMS, SUMMARY, TABLES, cell
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import read_json, read_yaml, write_json
from fisher_ld.evaluation.metrics.catalogue import PRIMARY
from fisher_ld.experiments.convergence import steps_to_target
from fisher_ld.experiments.results import Part

RESULTS = Path("docs") / "results"
INTERVAL = ("mean", "low", "high", "n")
KEYS = (  # of params
    "teacher.source", "teacher.adapt", "teacher.truncated_steps", "rivals", "gate", "fisher", "students", "distill",
    "trials", "evaluate.margin",
)  # fmt: skip
FLAGS = ("avx512_bf16", "amx_bf16")  # of processors: how fast bf16 is depends on them
COMPARED = (
    "student", "group", "question", "metric", "a", "b", "n", "seeds", "difference", "low", "high", "p_holm",
    "detectable", "detectable_holm", "verdict", "why",
)  # fmt: skip
READ = ("windows", "lists", "read", "labels")  # of the data report
DONE = ("moved", "same_order", "layer_loss", "validation_start", "validation_ndcg_10", "gain_last")  # of fit.json
OUTCOME = (*DONE, "steps_to_target")  # of a student
GATE = ("passed", "overridden", "tie", "lists", "teacher", "best_rival", "reasons")
TABLE = ("name", "title", "columns")  # of a table of the paper
CELL = ("paper", "ours", "interval", "spread", "p", "mark", "best", "empty")
TIMED = ("ratios", "intervals", "queries", "threads", "precision", "device")  # of efficiency


def processor(cpuinfo: str) -> dict[str, Any]:
    """Model name and FLAGS of the first processor in the text of /proc/cpuinfo."""
    lines = [line.partition(":") for line in reversed(cpuinfo.splitlines())]
    fields = {name.strip(): value.strip() for name, _, value in lines}
    found = set(fields.get("flags", "").split())
    return {"model": fields.get("model name", "unknown"), "flags": [flag for flag in FLAGS if flag in found]}


def cells(body: Mapping[str, Any], run: Mapping[str, Sequence]) -> list[tuple[Any, ...]]:
    """Names of the cells of one stage of dvc.yaml: every combination of the names in `run`."""
    axes = [body["foreach"]] if "foreach" in body else list(body.get("matrix", {}).values())
    first = ["${run.students[0]}"]
    names = (run["students"][:1] if axis == first else run[axis[len("${run.") : -1]] for axis in axes)
    return list(product(*names))


def took(stages: Mapping[str, Any], run: Mapping[str, Sequence]) -> dict[str, list[dict[str, Any]]]:
    """Stage of dvc.yaml -> run.json of each of its cells; stages that left none apart."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name, body in stages.items():
        stage = name.removesuffix(FURTHER)
        files = [cell(stage, *names) / "run.json" for names in cells(body, run)]
        found.setdefault(stage, []).extend(read_json(file) for file in files if file.is_file())
    return {stage: records for stage, records in found.items() if records}


def collect(params: Mapping[str, Any], stages: Mapping[str, Any]) -> dict[str, Any]:
    """What metrics/ says of the cells of `params` (the content of params.yaml), in the working directory. Raises
    UserError where a file is missing."""
    run = params["run"]
    parts = {name: Part(name, Run.model_construct(**run)) for name in run["data"]}
    cells = {f"{name}/{student}": (part, student) for name, part in parts.items() for student in run["students"]}
    efficiency = {name: part.efficiency[student] for name, (part, student) in cells.items()}
    return {
        "params": {"run": run} | {key: _value(params, key) for key in KEYS},
        "summary": read_json(SUMMARY),
        "read": {name: {key: part.data[key] for key in READ} for name, part in parts.items()},
        "scored": {name: part.scored for name, part in parts.items()},
        "quality": {name: _quality(part) for name, part in parts.items()},
        "comparisons": {name: _each(part.evaluate["comparisons"], _compared) for name, part in parts.items()},
        "retained": {name: part.evaluate["retained"] for name, part in parts.items()},
        "outcome": {name: outcomes(part) for name, part in parts.items()},
        "strengths": {name: part.strengths for name, part in parts.items()},
        "gate": {name: {key: part.gates[s][key] for key in GATE} for name, (part, s) in cells.items()},
        "efficiency": {name: {key: content[key] for key in TIMED} for name, content in efficiency.items()},
        "tables": tables(read_json(TABLES / "tables.json")),
        "seconds": {
            stage: {"cells": len(records), "seconds": round(sum(record["seconds"] for record in records), 1)}
            for stage, records in took(stages, run).items()
        },
    }


def tables(filled: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Of the paper's tables those of numbers of which a third of the rows was run."""

    def row(of: Mapping[str, Any]) -> dict[str, Any]:
        return {**of, "cells": [{key: cell[key] for key in CELL} for cell in of["cells"]]}

    return [
        {key: table[key] for key in TABLE} | {"rows": [row(of) for of in table["rows"]]}
        for table in filled
        if "examples" not in table and mean(any(cell["ours"] for cell in of["cells"]) for of in table["rows"]) >= 1 / 3
    ]


def outcomes(part: Part) -> dict[str, dict[str, Any]]:
    """Student -> OUTCOME, means over its seeds: did anything happen? None where a method has no such number.
    steps_to_target: of each seed, None where it has none."""
    found, soon = dict[str, dict[str, Any]](), steps_to_target(part)
    for model, fits in part.fits.items():
        if "/" in model:
            values = {key: [fit[key] for fit in fits if fit[key] is not None] for key in DONE}
            found[model] = {key: mean(numbers) if numbers else None for key, numbers in values.items()}
            found[model]["steps_to_target"] = soon.get(model)
    return found


def _each(families: Mapping[str, Any], chosen: Callable[[Any], Any]) -> dict[str, Any]:
    return {family: chosen(content) for family, content in families.items()}


def _quality(part: Part) -> dict[str, Any]:
    """Family -> model -> INTERVAL, and the mean of each seed."""
    seeds = part.evaluate["seeds"]

    def row(family: str, model: str, metrics: Mapping[str, Any]) -> dict[str, Any]:
        return {key: metrics[PRIMARY][key] for key in INTERVAL} | {"seeds": seeds[family][model]}

    found = part.evaluate["quality"]
    return {family: {name: row(family, name, of) for name, of in models.items()} for family, models in found.items()}


def _compared(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{key: row[key] for key in COMPARED} for row in rows]


def _value(params: Mapping[str, Any], key: str) -> Any:
    return reduce(lambda value, part: value[part], key.split("."), params)


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(given: Sequence[str]) -> None:
    if len(given) != 1:
        raise UserError(f"expected python -m fisher_ld.experiments.record PROFILE, got {' '.join(given) or 'no name'}")
    if subprocess.run(["dvc", "status", "--quiet"], check=False).returncode:
        raise UserError("metrics/ is not what params.yaml and the code give (dvc status): run `dvc repro` first")
    changed = _output("git", "diff", "--name-only", "HEAD", "--", ".", ":!docs").splitlines()
    head = {
        "profile": given[0],
        "commit": _output("git", "rev-parse", "HEAD"),
        "changed": changed,  # files that differ from the commit; none: the tree was clean
        "date": datetime.now(UTC).date().isoformat(),
        "processor": {**processor(Path("/proc/cpuinfo").read_text()), "cores": len(os.sched_getaffinity(0))},
    }
    path = RESULTS / f"{given[0]}.json"
    write_json(path, head | collect(read_yaml(PARAMS), read_yaml("dvc.yaml")["stages"]))
    print(f"written: {path}; now: python -m fisher_ld.report.results_page")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(str(error))
