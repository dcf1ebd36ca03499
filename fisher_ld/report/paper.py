"""The paper's tables and claims, with ours beside them, as blocks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from string import ascii_lowercase
from typing import Any

from fisher_ld.evaluation.examples import TOP
from fisher_ld.experiments.claims import Judged, doubts
from fisher_ld.experiments.tables import BEST, NEAR
from fisher_ld.report.blocks import Block, Cell, Heading, Table, Text

DAGGER, DOUBLE = "†", "‡"
KEPT = ("paper", "value", "spread", "low", "high", "p", "mark", "empty")  # of a cell, for a CSV


def table_blocks(table: Mapping[str, Any]) -> list[Block]:
    """Any table that `experiments.tables.fill` filled: ours, small below it our interval, the spread over seeds, p and
    the paper's number. Rows with a start of their own come last. An empty cell refers to the reason below the table."""
    if "examples" in table:
        return _examples(table)
    ordered = sorted(table["rows"], key=lambda row: row["own_start"])
    cells = [cell for row in ordered for cell in row["cells"]]
    reasons = dict.fromkeys(cell["empty"] for cell in cells if cell["empty"])
    marks = {reason: f"({letter})" for reason, letter in zip(reasons, ascii_lowercase, strict=False)}
    names = [row["name"] + (DOUBLE if row["own_start"] else "") for row in ordered]
    rows = [[name, *(_beside(cell, marks) for cell in row["cells"])] for name, row in zip(names, ordered, strict=True)]
    width = len(table["columns"])
    best = [(i // width, 1 + i % width) for i, cell in enumerate(cells) if cell["mark"] == BEST]
    blocks: list[Block] = [Heading(table["title"], 3), Table(["", *table["columns"]], rows, best=best)]
    if chosen := dict.fromkeys(cell["best"] for cell in cells if cell["best"]):
        blocks.append(
            Text(
                "p is that of a test against uniform layers, after Holm. "
                f"Best on validation lists: {', '.join(chosen)}, in bold where it is a row here. "
                f"{DAGGER} marks what is not shown below it."
            )
        )
    if any(row["own_start"] for row in ordered):
        blocks.append(
            Text(f"{DOUBLE} does not share the start of the other rows, so that more than the method differs.")
        )
    if marks:
        blocks.append(Text(f"Empty: {'; '.join(f'{mark} {reason}' for reason, mark in marks.items())}."))
    return blocks


def _examples(table: Mapping[str, Any]) -> list[Block]:
    """The paper's example, users of ours, and of all test lists how many of the teacher's first items a column has."""
    found, columns = table["examples"], table["columns"]
    text = (
        f"Below the paper's user are {len(found['users'])} test users of ours, drawn with the run's seed before any "
        "score was read. A model puts the candidates of a user's list in order: the item that was liked next, in bold, "
        f"and negatives matched to it in popularity. Its first {TOP} are those of that list, not of the catalogue. "
        "Students are of the first seed."
    )
    rows: list[list[Cell]] = [["the paper's user", "", *("" for _ in columns)]]
    rows += [["", row["name"], *(cell["paper"] for cell in row["cells"])] for row in table["rows"]]
    best, words = [(0, 0)], [0, *range(2, 2 + len(columns))]
    for user in found["users"]:
        best += [(len(rows), column) for column in words]
        best += [(len(rows) + m["rank"], 2 + i) for i, m in enumerate(user["models"]) if m.get("rank", TOP + 1) <= TOP]
        rows += _of_user(user)
    means = ("" if ours is None else f"{ours:.2f}" for ours, _ in found["shared"])
    shares = [
        [f"all {found['lists']:,} test lists, mean", *means],
        ["of a random order", *(f"{found['by_chance']:.2f}" for _ in columns)],
        ["the paper's user", *(str(paper) for _, paper in found["shared"])],
    ]
    return [
        Heading(table["title"], 3),
        Text(text),
        Table(["liked before, latest first", "rank", *columns], rows, words, best),
        Table(["of the teacher's first five among one's own", *columns], shares),
    ]


def _of_user(user: Mapping[str, Any]) -> list[list[Cell]]:
    """What was liked next with its rank in each column, or why there is none; then what was liked last beside what each
    model puts first."""
    models, liked = user["models"], user["history"][: -TOP - 1 : -1]
    ranks = (f"rank {m['rank']} of {user['candidates']}" if "rank" in m else f"not run: {m['empty']}" for m in models)
    tops = [m.get("top", []) for m in models]
    return [
        [f"user {user['user']} liked next: {user['liked']}", "", *ranks],
        *([_at(liked, i), str(i + 1), *(_at(top, i) for top in tops)] for i in range(TOP)),
    ]


def _at(titles: Sequence[str], place: int) -> str:
    """Nothing where there are fewer."""
    return titles[place] if place < len(titles) else ""


def _beside(cell: Mapping[str, Any], marks: Mapping[str, str]) -> Cell:
    paper = "" if cell["paper"] is None else f"paper {cell['paper']}"
    if cell["empty"]:
        return marks[cell["empty"]], paper
    value = cell["ours"] + (DAGGER if cell["mark"] == NEAR else "")
    spread = "" if cell["spread"] is None else f"± {cell['spread']:.3f} over seeds"
    return value, cell["interval"] or "", spread, "" if cell["p"] is None else f"p = {cell['p']:.2g}", paper


def table_rows(table: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The same for a CSV, a row a cell; of examples the value is a title."""
    users = table["examples"]["users"] if "examples" in table else []
    return [
        {"row": row["name"], "column": column} | {key: cell[key] for key in KEPT}
        for row in table["rows"]
        for column, cell in zip(table["columns"], row["cells"], strict=True)
    ] + [
        {"row": f"user {user['user']}, {place}", "column": column, **dict.fromkeys(KEPT), "value": title}
        for user in users
        for column, model in zip(table["columns"], user["models"], strict=True)
        for place, title in enumerate(model.get("top", []), 1)
    ]


def doubt_blocks() -> list[Block]:
    rows = [[f"if {condition}", consequence] for condition, consequence in doubts()]
    return [
        Table(["what the paper does not say", "what would follow of its own numbers"], rows, words=(0, 1)),
        Text("The paper states neither, so that neither is a judgement on it."),
    ]


def claim_blocks(judged: Iterable[Judged]) -> list[Block]:
    note = (
        "“Reproduced” where our teacher passed the gate and the whole of our interval shows at least what the paper "
        "claims; what has no interval is judged by its value. “Chosen” where params.yaml sets it. The gains of its "
        "tables are in NDCG@5, ours beside them in NDCG@10, the metric that is tested."
    )
    rows = [[row.where, row.what, row.paper, row.ours, row.verdict, row.reason] for row in judged]
    header = ["in the paper", "claim", "paper", "ours", "verdict", "why"]
    return [Heading("What the paper claims in its text", 3), Text(note), Table(header, rows, words=range(6))]


def open_blocks(claims: Iterable[Mapping[str, Any]]) -> list[Block]:
    """Those of which there is no experiment yet."""
    rows = [[claim["where"], claim["what"], claim["paper"], claim.get("note", "")] for claim in claims]
    header = ["in the paper", "claim", "paper", "what its own numbers say"]
    return [Text("Of these claims there is no experiment here yet."), Table(header, rows, words=range(4))]
