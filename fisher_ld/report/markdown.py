"""Blocks as Markdown. Pictures are named by their captions: they are in the HTML."""

from __future__ import annotations

from collections.abc import Sequence

from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text


def markdown(title: str, blocks: Sequence[Block]) -> str:
    parts = [f"# {title}"]
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Text(text):
                parts.append(text)
            case Table(header, rows, _, words):
                rule = [":--" if i in words else "--:" for i in range(len(header))]
                lines = [header, rule, *([_plain(cell) for cell in row] for row in rows)]
                parts.append("\n".join("| " + " | ".join(line) + " |" for line in lines))
            case Picture(caption=caption):
                parts.append(f"*Picture in report.html: {caption}*")
    return "\n\n".join(parts) + "\n"


def _plain(cell: Cell) -> str:
    text = cell if isinstance(cell, str) else f"{cell[0]} ({cell[1]})" if cell[1] else cell[0]
    return text.replace("|", "\\|")
