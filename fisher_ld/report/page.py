"""The page: the answers, the sections of every data set, the paper's tables and claims, and what the run took."""

from __future__ import annotations

from dataclasses import replace

from fisher_ld.config.paths import cell
from fisher_ld.core.files import read_json, read_yaml
from fisher_ld.experiments.claims import doubt, judge
from fisher_ld.experiments.record import cells
from fisher_ld.experiments.results import MAIN, Part, Results
from fisher_ld.experiments.tables import paper
from fisher_ld.report import sections
from fisher_ld.report.blocks import Block, Heading, Table, Text
from fisher_ld.report.charts import charts
from fisher_ld.report.findings import findings, headline
from fisher_ld.report.paper import claim_blocks, table_blocks

TITLE = "Fisher-LD: what the student gives for what it costs"


def document(results: Results, list_weight: float) -> list[Block]:
    """`list_weight`: distill.list_weight."""
    blocks: list[Block] = []
    for part in results.parts.values():
        whole = _part(part, results.method, list_weight)
        blocks += whole if len(results.parts) == 1 else [Heading(f"Data set {part.name}"), *map(_deeper, whole)]
    return [*blocks, *_paper(results), *_costs(results)]


def _deeper(block: Block) -> Block:
    return replace(block, level=block.level + 1) if isinstance(block, Heading) else block


def _part(part: Part, method: str, list_weight: float) -> list[Block]:
    pictures = charts(part, method)
    return [
        *_answers(part, method),
        *sections.quality(part, method, pictures),
        *sections.speed(part, method, pictures),
        *sections.layers(part, method, pictures),
        *sections.training(part, list_weight, pictures),
        *sections.compared(part),
        *sections.data(part, pictures),
    ]


def _answers(part: Part, method: str) -> list[Block]:
    blocks: list[Block] = []
    for student in part.run.students:
        found = findings(part, student, method)
        blocks += sections.title(part, student, 2)
        blocks += [Text(text, lead=True) for text in headline(part, student, method, found)]
        rows = [[f.question, f.answer, f.text] for f in found.values()]
        blocks.append(Table(["Question", "Answer", "Evidence"], rows, words=(0, 1, 2)))
    users = part.evaluate["quality"][MAIN]["teacher"]["ndcg_10"]["n"]
    count = len(part.run.seeds)
    seeds = (
        "One training seed a student: the intervals do not hold what another run of the same training would give."
        if count == 1
        else f"Students are trained {count} times, with {count} seeds: a student's value is the mean over them, and "
        "its intervals hold their spread as well."
    )
    note = (
        f"All on {users:,} test users, lists of one liked item among others drawn by popularity. Brackets are 95% "
        "bootstrap intervals over users. “Not shown” means that the data do not tell, not that there is no difference. "
    )
    return [*blocks, Text(note + seeds)]


def _paper(results: Results) -> list[Block]:
    note = (
        f"Ours of {results.run.data[0]} and student {results.run.students[0]} where a table names no other; below it "
        "our interval and the paper's number. Absolute values are of other data, models and machines: compare the "
        "ratios. "
    )
    blocks: list[Block] = [Heading("The paper's tables, filled as far as this run goes"), Text(note + doubt())]
    for table in results.tables:
        blocks += table_blocks(table)
    return [*blocks, *claim_blocks(judge(claim, results) for claim in paper()["claims"])]


def _costs(results: Results) -> list[Block]:
    """Of the cells of this run that left a run.json; that of the report itself is an older one."""
    rows, total = [], 0.0
    for stage, body in read_yaml("dvc.yaml")["stages"].items():
        files = [cell(stage, name) / "run.json" for name in cells(body, results.run.model_dump()) if stage != "report"]
        if found := [read_json(file) for file in files if file.is_file()]:
            seconds, peak = (f(c[key] for c in found) for f, key in ((sum, "seconds"), (max, "peak_memory_mib")))
            rows.append([stage, f"{len(found):,}", f"{seconds:,.0f}", f"{peak:,.0f}"])
            total += seconds
    text = f"{total:,.0f} seconds in all, cell after cell; the report itself is not counted."
    header = ["stage", "cells", "seconds in all", "peak MiB of a cell"]
    return [Heading("What the run took"), Table(header, rows), Text(text)]
