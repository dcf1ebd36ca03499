"""Blocks as LaTeX, to be put into a table environment: tables need the package booktabs. Pictures are in the HTML."""

from __future__ import annotations

from collections.abc import Sequence

from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text, lines

ESCAPES = str.maketrans(
    {character: f"\\{character}" for character in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    | {"[": "{[}", "*": "{*}"}  # which would be options of a line break before them
    | {"<": "$<$", ">": "$>$", "|": "$|$", "†": r"$^\dagger$", "±": r"$\pm$"}
    | {"\N{GREEK SMALL LETTER SIGMA}": r"$\sigma$"}
)


def latex(title: str, blocks: Sequence[Block]) -> str:
    parts = [f"% {title}"]
    for block in blocks:
        match block:
            case Heading(text):
                parts.append(rf"\paragraph{{{escape(text)}}}")
            case Text(text):
                parts.append(rf"{{\footnotesize {escape(text)}\par}}")
            case Table(header, rows, words, best):
                body = [[_cell(cell, (r, c) in best) for c, cell in enumerate(row)] for r, row in enumerate(rows)]
                head, *body = [" & ".join(row) + r" \\" for row in (map(escape, header), *body)]
                columns = "".join("l" if i in words else "r" for i in range(len(header)))
                rules = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule"]
                parts.append("\n".join([*rules, *body, r"\bottomrule", r"\end{tabular}"]))
            case Picture():
                pass
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    return text.translate(ESCAPES)


def _cell(cell: Cell, best: bool) -> str:
    value, *below = map(escape, lines(cell))
    value = rf"\textbf{{{value}}}" if best else value
    if not below:
        return value
    small = (rf"\scriptsize {line}" for line in below)
    return r"\begin{tabular}[t]{@{}r@{}}" + r" \\ ".join([value, *small]) + r"\end{tabular}"
