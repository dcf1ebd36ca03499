"""Writes docs/results.md from docs/results/*.json (see fisher_ld.experiments.record), so that it cannot drift.

    python -m fisher_ld.report.results_page

docs/results/preface.md is written by hand and stands first. Every table has one sentence under it; commit and machine
of a profile are its footnote.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any

from fisher_ld.batches.lists import MAIN
from fisher_ld.core.files import atomic_path, read_json
from fisher_ld.evaluation.metrics.catalogue import METRICS, PRIMARY
from fisher_ld.experiments.record import RESULTS
from fisher_ld.report.findings import QUESTIONS, answer, basis, rests_on
from fisher_ld.report.markdown import markdown
from fisher_ld.report.paper import table_blocks
from fisher_ld.report.recipe import DONE, done, strength_rows, tried

PAGE = RESULTS.parent / "results.md"
FIRST = "default"  # profile that stands first
RATIOS = ("latency_p50", "throughput", "peak_memory", "parameters", "size_on_disk", "energy")
BARE = str.maketrans("", "", '"')  # JSON without its quotes reads like YAML


def table(header: Sequence[str], rows: Sequence[Sequence[str]], sentence: str) -> str:
    """A Markdown table and the sentence under it."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{sentence}"


def _between(row: Mapping[str, Any], name: str, form: str = ".3f") -> str:
    return f"{row[name]:{form}} ({row['low']:{form}} to {row['high']:{form}})"


def _first_lines(rows: Sequence[Mapping[str, Any]], margin: float, teachers: int) -> str:
    asked = [(text, row) for key, text in QUESTIONS.items() for row in rows if row["question"] == key]
    cells = [
        [text, answer(row, margin), basis(row, f"`{row['a']}`", f"`{row['b']}`"), row["verdict"]] for text, row in asked
    ]
    return table(["what a deployment asks", "answer", "of", "verdict"], cells, rests_on(teachers))


def _read(found: Mapping[str, Any]) -> str:
    windows, lists, labels, read = (found[key] for key in ("windows", "lists", "labels", "read"))
    rows = [
        ["labelled", f"{windows['labelled']:,}", f"{labels['train']:,}"],
        ["transfer, the teacher's answers alone", f"{windows['transfer']:,}", f"{lists['transfer']:,}"],
        ["all, for the rivals with all labels", f"{windows['all']:,}", f"{lists['train']:,}"],
        ["validation", "", f"{labels['val']:,}"],
    ]
    sentence = f"Of the windows that a student read, the teacher read {read['both'] / read['student']:.0%}."
    return table(["what was read", "windows", "lists"], rows, sentence)


def _outcome(found: Mapping[str, Mapping[str, float | None]]) -> str:
    rows = [[f"`{model}`", *done(means)] for model, means in found.items()]
    filled = [any(column) for column in zip(*rows, strict=True)]  # an older record lacks a column
    header, *rows = (list(compress(row, filled)) for row in (["student", *DONE], *rows))
    return table(header, rows, "Means over seeds; a layer loss of 1 is that of the constant predictor.")


def _strengths(found: Mapping[str, Any]) -> str:
    header, *rows = strength_rows(found)
    return table(header, [[f"`{model}`", *row] for model, *row in rows], tried(found))


def _quality(families: Mapping[str, Any]) -> str:
    rows = []
    for model in dict.fromkeys(model for found in families.values() for model in found):
        found = [families[family].get(model) for family in families]
        means = families[MAIN].get(model, {}).get("seeds", [])  # an older record has none
        spread = f"{min(means):.3f} to {max(means):.3f}" if len(means) > 1 else ""
        rows.append([f"`{model}`", *(f"{_between(row, 'mean')}, {row['n']}" if row else "" for row in found), spread])
    sentence = (
        "NDCG@10 of test lists, by the family that negatives come from: mean, 95% interval, number of users. The last "
        f"column has the least and the largest mean of a training seed on the {MAIN} lists."
    )
    return table(["model", *families, "over seeds"], rows, sentence)


def _comparisons(rows: Sequence[Mapping[str, Any]]) -> str:
    cells, tested = [], set()
    for row in rows:
        metric = row.get("metric", PRIMARY)  # an older record has no other, and may have a pair twice
        what = frozenset((row["a"], row["b"])), metric
        if what not in tested:
            name = "" if metric == PRIMARY else f", {METRICS[metric].label}"
            pair, difference = f"`{row['a']}` minus `{row['b']}`{name}", _between(row, "difference", "+.3f")
            cells.append([row["group"], pair, difference, f"{row['p_holm']:.2g}", row["verdict"]])
        tested.add(what)
    sentence = (
        "Differences of paired users, in NDCG@10 where no other metric is named; p after Holm over the group, of one "
        "student, in which it stands."
    )
    return table(["group", "what", "difference", "p", "verdict"], cells, sentence)


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
        [f"`{model}` ({name})", *(_times(found[name], model, ratio) for ratio in shown)] for name, model, _ in models
    ]
    header = ["model", *(ratio.replace("_", " ") for ratio in shown)]
    return table(header, rows, "How many times better than the teacher, all timed in one process.")


def _times(row: Mapping[str, Any], model: str, ratio: str) -> str:
    value, between = row["ratios"][model].get(ratio), row.get("intervals", {}).get(model, {}).get(ratio)
    if value is None:
        return ""
    return f"{value:.1f}" + (f" ({between['low']:.1f} to {between['high']:.1f})" if between else "")


def _seconds(stages: Mapping[str, Any]) -> str:
    rows = [[f"`{name}`", str(row["cells"]), f"{row['seconds']:,.0f}"] for name, row in stages.items()]
    rows.append(["all", "", f"{sum(row['seconds'] for row in stages.values()):,.0f}"])
    sentence = "Summed over the cells of a stage; cells of students may have run side by side."
    return table(["stage", "cells", "seconds"], rows, sentence)


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
    parts = [f"## Profile {found['profile']}[^{found['profile']}]"]
    for data in found["quality"]:
        rows = found["comparisons"][data][MAIN]
        asked = _first_lines(rows, found["params"]["evaluate.margin"], len(found["params"]["run"]["teacher_seeds"]))
        parts += [f"### What a deployment asks of {data}", asked]
        parts += [f"### What was read of {data}", _read(found["read"][data])]
        parts += [f"### Quality on {data}", _quality(found["quality"][data])]
        parts += [f"### Comparisons on {data}", _comparisons(rows)]
        parts += [f"### What students retain on {data}", _retained(found["retained"][data][MAIN])]
        parts += [f"### Did anything happen on {data}?", _outcome(found["outcome"][data])]
        if strengths := found.get("strengths", {}).get(data):
            parts += [f"### How much is taken from the teacher on {data}", _strengths(strengths)]
    for filled in found.get("tables", []):
        parts.append("##" + markdown(filled["title"], table_blocks(filled)[1:]).strip())
    parts += ["### The gate", _gates(found["gate"]), "### Efficiency", _efficiency(found["efficiency"])]
    parts += ["### Time", _seconds(found["seconds"]), "### Params", _params(found["params"])]
    return "\n\n".join([*parts, _footnote(found)])


def page(folder: Path) -> str:
    """The whole page from the preface and the records in `folder`."""
    records = [read_json(path) for path in folder.glob("*.json")]
    records.sort(key=lambda found: (found["profile"] != FIRST, found["profile"]))
    preface = (folder / "preface.md").read_text(encoding="utf-8").strip()
    return "\n\n".join([preface, *_scored(records), *map(section, records)]) + "\n"


def _scored(records: Sequence[Mapping[str, Any]]) -> list[str]:
    times = sum(sum(found["scored"].values()) for found in records)
    once = "one run" if len(records) == 1 else f"{len(records)} runs"
    text = f"In {once} recorded here the test lists were scored {times:,} times, a model's run and a family each."
    return [text] if records else []


if __name__ == "__main__":
    with atomic_path(PAGE) as temporary:
        temporary.write_text(page(RESULTS), encoding="utf-8")
