"""Blocks as Markdown. Pictures are named by their captions: they are in the HTML."""

from __future__ import annotations

from collections.abc import Sequence

from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text, lines


def markdown(title: str, blocks: Sequence[Block]) -> str:
    parts = [f"# {title}"]
    for block in blocks:
        match block:
            case Heading(text, level):
                parts.append(f"{'#' * level} {text}")
            case Text(text):
                parts.append(text)
            case Table(header, rows, words, best):
                rule = [":--" if i in words else "--:" for i in range(len(header))]
                body = [[_plain(cell, (r, c) in best) for c, cell in enumerate(row)] for r, row in enumerate(rows)]
                parts.append("\n".join("| " + " | ".join(line) + " |" for line in (header, rule, *body)))
            case Picture(caption=caption):
                parts.append(f"*Picture in report.html: {caption}*")
    return "\n\n".join(parts) + "\n"


def _plain(cell: Cell, best: bool) -> str:
    value, *below = lines(cell)
    text = (f"**{value}**" if best else value) + (f" ({'; '.join(below)})" if below else "")
    return text.replace("|", "\\|")
