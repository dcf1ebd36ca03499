"""Writes docs/results.md from docs/results/*.json (see fisher_ld.experiments.record), so that it cannot drift.

    python -m fisher_ld.report.results_page

docs/results/preface.md is written by hand and stands first. Every table has one sentence under it; commit and machine
of a profile are its footnote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fisher_ld.batches.lists import FAMILIES
from fisher_ld.core.files import atomic_path, read_json
from fisher_ld.experiments.record import RESULTS

PAGE = RESULTS.parent / "results.md"
MAIN = FAMILIES[0]  # test lists that comparisons are shown of
FIRST = "default"  # profile that stands first
RATIOS = ("latency_p50", "throughput", "peak_memory", "parameters", "size_on_disk", "energy")
BARE = str.maketrans("", "", '"')  # JSON without its quotes reads like YAML


def table(header: Sequence[str], rows: Sequence[Sequence[str]], sentence: str) -> str:
    """A Markdown table and the sentence under it."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{sentence}"


def _between(row: Mapping[str, Any], name: str, form: str = ".3f") -> str:
    return f"{row[name]:{form}} ({row['low']:{form}} to {row['high']:{form}})"


def _quality(families: Mapping[str, Any]) -> str:
    rows = []
    for model in dict.fromkeys(model for found in families.values() for model in found):
        found = [families[family].get(model) for family in families]
        rows.append([f"`{model}`", *(f"{_between(row, 'mean')}, {row['n']}" if row else "" for row in found)])
    sentence = "NDCG@10 of test lists, by the family that negatives come from: mean, 95% interval, number of users."
    return table(["model", *families], rows, sentence)


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = []
    for row in rows:
        what, difference = f"`{row['a']}` minus `{row['b']}`", _between(row, "difference", "+.3f")
        cells.append([what, difference, f"{row['p_holm']:.2g}", row["verdict"]])
    sentence = "Differences of paired users in NDCG@10; p after Holm, over those of one student or the teacher."
    return table(["what", "difference", "p", "verdict"], cells, sentence)


def _retained(rows: Mapping[str, Any]) -> str:
    cells = []
    for model, row in rows.items():
        above = row["above_chance"]
        cells.append([f"`{model}`", _between(row, "share", ".1%"), _between(above, "share", ".1%") if above else ""])
    sentence = "Empty: the teacher is not clearly above chance."
    return table(["model", "share of the teacher's NDCG@10", "of what is above chance"], cells, sentence)


def _gates(gates: Mapping[str, Any]) -> str:
    answers = {True: "passed", False: "not passed"}
    rows = [[f"`{name}`", answers[gate["passed"]], "; ".join(gate["reasons"])] for name, gate in gates.items()]
    return table(["student", "gate", "why"], rows, "Decided on validation lists, before any test list is scored.")


def _efficiency(found: Mapping[str, Any]) -> str:
    models = [(name, model, ratios) for name, row in found.items() for model, ratios in row["ratios"].items()]
    shown = [name for name in RATIOS if any(name in ratios for _, _, ratios in models)]
    rows = [
        [f"`{model}` ({name})", *(f"{ratios[ratio]:.1f}" if ratio in ratios else "" for ratio in shown)]
        for name, model, ratios in models
    ]
    header = ["model", *(ratio.replace("_", " ") for ratio in shown)]
    return table(header, rows, "How many times better than the teacher, all timed in one process on the same queries.")


def _seconds(stages: Mapping[str, Any]) -> str:
    rows = [[f"`{name}`", str(row["cells"]), f"{row['seconds']:,.0f}"] for name, row in stages.items()]
    rows.append(["all", "", f"{sum(row['seconds'] for row in stages.values()):,.0f}"])
    return table(["stage", "cells", "seconds"], rows, "Summed over the cells of a stage.")


def _params(params: Mapping[str, Any]) -> str:
    rows = [[f"`{section}`", json.dumps(content).translate(BARE)] for section, content in params.items()]
    return table(["section", "values"], rows, "All other keys are those of params.yaml at this commit.")


def _footnote(found: Mapping[str, Any]) -> str:
    changed, machine = found["changed"], found["processor"]
    tree = f"with changes in {', '.join(f'`{file}`' for file in changed)}" if changed else "clean tree"
    units = f", with {', '.join(machine['flags'])}" if machine["flags"] else ""
    where = f"{machine['cores']} cores of {machine['model']}{units}"
    return f"[^{found['profile']}]: Commit `{found['commit'][:10]}`, {tree}; {found['date']}; {where}."


def section(found: Mapping[str, Any]) -> str:
    """One profile's part of the page."""
    parts = [f"## Profile {found['profile']}[^{found['profile']}]", _params(found["params"])]
    for data in found["quality"]:
        parts += [f"### Quality on {data}", _quality(found["quality"][data])]
        parts += [f"### Comparisons on {data}", _comparisons(found["comparisons"][data][MAIN])]
        parts += [f"### What students retain on {data}", _retained(found["retained"][data][MAIN])]
    parts += ["### The gate", _gates(found["gate"]), "### Efficiency", _efficiency(found["efficiency"])]
    return "\n\n".join([*parts, "### Time", _seconds(found["seconds"]), _footnote(found)])


def page(folder: Path) -> str:
    """The whole page from the preface and the records in `folder`."""
    records = [read_json(path) for path in folder.glob("*.json")]
    records.sort(key=lambda found: (found["profile"] != FIRST, found["profile"]))
    preface = (folder / "preface.md").read_text(encoding="utf-8").strip()
    return "\n\n".join([preface, *map(section, records)]) + "\n"


if __name__ == "__main__":
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page(RESULTS), encoding="utf-8")
