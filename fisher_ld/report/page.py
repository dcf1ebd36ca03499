"""The page: the first lines, the sections of every data set, the paper's tables and claims, and what the run took."""

from __future__ import annotations

from dataclasses import replace

from fisher_ld.batches.lists import MAIN
from fisher_ld.config.params import Params, all_methods
from fisher_ld.config.paths import TABLES, cell
from fisher_ld.core.files import read_json, read_yaml
from fisher_ld.distillation.methods import METHODS
from fisher_ld.experiments.claims import judge
from fisher_ld.experiments.record import took
from fisher_ld.experiments.results import Part, Results
from fisher_ld.experiments.tables import paper
from fisher_ld.report import sections
from fisher_ld.report.blocks import Block, Heading, Table, Text
from fisher_ld.report.charts import charts
from fisher_ld.report.findings import findings, headline
from fisher_ld.report.paper import claim_blocks, doubt_blocks, open_blocks, table_blocks
from fisher_ld.report.recipe import recipe

TITLE = "Fisher-LD: is the teacher worth distilling, and what does the student keep?"


def document(results: Results, params: Params) -> list[Block]:
    blocks: list[Block] = []
    for part in results.parts.values():
        whole = _part(part, results.method, params)
        blocks += whole if len(results.parts) == 1 else [Heading(f"Data set {part.name}"), *map(_deeper, whole)]
    return [*blocks, *_paper(results), *_costs(results), *_signals(results)]


def _deeper(block: Block) -> Block:
    return replace(block, level=block.level + 1) if isinstance(block, Heading) else block


def _part(part: Part, method: str, params: Params) -> list[Block]:
    pictures = charts(part, method)
    return [
        *_first_lines(part, method, params.evaluate.margin),
        *recipe(part, params),
        *sections.quality(part, pictures),
        *sections.calibration(part, pictures),
        *sections.speed(part, method, pictures),
        *sections.training(part, params.distill.list_weight, pictures),
        *sections.layers(part, method, pictures),
        *sections.compared(part),
        *sections.data(part, pictures),
    ]


def _first_lines(part: Part, method: str, margin: float) -> list[Block]:
    blocks: list[Block] = []
    for student in part.run.students:
        blocks += sections.title(part, student, 2)
        blocks += [Text(text, lead=True) for text in headline(part, student)]
        rows = [[f.question, (f.answer, f.basis), f.verdict] for f in findings(part, student, method, margin)]
        blocks.append(Table(["what a deployment asks", "what was measured", "verdict"], rows, words=(0, 1, 2)))
    note = (
        f"Measured on the {MAIN} lists of the test users. Brackets are 95% intervals over users and training seeds, "
        "each alone. Verdicts and power are after Holm over the comparisons that were tested together. “Not shown” "
        "means that the data do not tell."
    )
    return [*blocks, Text(note)]


def _paper(results: Results) -> list[Block]:
    note = (
        f"Ours of {results.run.data[0]} and student {results.run.students[0]} where a table names no other; below it "
        "our interval and the paper's number. Absolute values are of other data, models and machines: compare the "
        "ratios."
    )
    blocks: list[Block] = [Heading("The paper's tables, filled as far as this run goes"), Text(note), *doubt_blocks()]
    filled = [
        t for t in results.tables if "examples" in t or any(cell["ours"] for row in t["rows"] for cell in row["cells"])
    ]
    for table in filled:
        blocks += table_blocks(table)
    if empty := [t["title"].partition(":")[0] for t in results.tables if t not in filled]:
        blocks.append(Text(f"Of {', '.join(empty)} this run has nothing; their numbers are in {TABLES}."))
    asked = [claim for claim in paper()["claims"] if "measure" in claim]
    others = [claim for claim in paper()["claims"] if "measure" not in claim]
    return [*blocks, *claim_blocks(judge(claim, results) for claim in asked), *open_blocks(others)]


def _costs(results: Results) -> list[Block]:
    """Of the cells of this run that left a run.json; that of the report itself is an older one."""
    rows, total = [], 0.0
    for stage, found in took(read_yaml("dvc.yaml")["stages"], results.run.model_dump()).items():
        if stage != "report":
            seconds, peak = (f(c[key] for c in found) for f, key in ((sum, "seconds"), (max, "peak_memory_mib")))
            rows.append([stage, f"{len(found):,}", f"{seconds:,.0f}", f"{peak:,.0f}"])
            total += seconds
    text = f"{total:,.0f} seconds, summed over cells, of which students' may have run side by side; without the report."
    header = ["stage", "cells", "seconds in all", "peak MiB of a cell"]
    return [Heading("What the run took"), Table(header, rows), Text(text)]


def _signals(results: Results) -> list[Block]:
    """What students learn from takes, where the stages that cache it say so."""
    rows = []
    for data in results.run.data:
        places = [("every method with a teacher", cell("cache_teacher", data))]
        places += [(METHODS[m].label, cell("cache_signals", data, m)) for m in all_methods(results.run)]
        for who, folder in places:
            if (folder / "signals.json").is_file():
                found, ran = read_json(folder / "signals.json"), read_json(folder / "run.json")
                rows.append(
                    [data, who, ", ".join(found["signals"]), f"{found['bytes'] / 1e6:,.0f}", f"{ran['seconds']:,.0f}"]
                )
    return [Table(["data set", "cached for", "signals", "MB", "seconds"], rows, words=(0, 1, 2))] if rows else []
