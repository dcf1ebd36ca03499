"""Blocks as one self-contained HTML file."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape

from fisher_ld.report.blocks import Block, Cell, Heading, Picture, Table, Text, lines

# verdicts that are set as a badge
GOOD = ("passed", "shown above", "reproduced")
BAD = ("not passed", "shown below", "not reproduced")
OPEN = ("equal", "not shown", "not tested", "not measured", "cannot be compared")

STYLE = """
:root { color-scheme: light; }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 66rem; padding: 2.5rem 1.5rem 5rem; background: #fff; color: #22262b;
  font: 16px/1.55 "Helvetica Neue", Helvetica, "Segoe UI", Arial, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 1.2rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .6rem; padding-top: .9rem; border-top: 1px solid #d9dde2; }
h3, h4 { font-size: 1.05rem; margin: 1.8rem 0 .5rem; }
p { margin: .5rem 0; max-width: 52rem; }
p.lead { font-size: 1.13rem; margin: .6rem 0; }
.wide { overflow-x: auto; margin: .9rem 0; }
table { border-collapse: collapse; width: 100%; font-size: .88rem; line-height: 1.35;
  font-variant-numeric: tabular-nums; }
th { text-align: right; vertical-align: bottom; font-weight: 600; border-bottom: 2px solid #22262b;
  padding: .35rem .6rem; }
td { text-align: right; vertical-align: top; border-bottom: 1px solid #e6e9ed; padding: .4rem .6rem; }
th.word, td.word { text-align: left; }
th:first-child, td:first-child { padding-left: 0; }
td small { display: block; color: #666d76; font-weight: 400; font-size: .8rem; }
td:not(.word) small { white-space: nowrap; }
.badge { display: inline-block; padding: .05rem .5rem; border-radius: .7rem; font-size: .8rem; font-weight: 600;
  white-space: nowrap; }
.good { background: #d8f0df; color: #14532d; }
.bad { background: #fbdedb; color: #8a1c13; }
.open { background: #fdf0cd; color: #6b4a00; }
figure { margin: 1.2rem 0; }
figure img { display: block; max-width: 100%; height: auto; }
figcaption { color: #555c66; font-size: .88rem; margin-top: .4rem; max-width: 52rem; }
@media print { body { padding: 0; max-width: none; } h2 { break-after: avoid; } tr, figure { break-inside: avoid; } }
"""


def html(title: str, blocks: Sequence[Block]) -> str:
    body = "\n".join(_html(block) for block in blocks)
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n<title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n<h1>{escape(title)}</h1>\n{body}\n</body>\n</html>\n"
    )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{escape(text)}</h{level}>"
        case Text(text, lead):
            return f"<p{_class('lead' if lead else '')}>{escape(text)}</p>"
        case Table(header, rows, words, best):
            kinds = [_class("word" if i in words else "") for i in range(len(header))]
            head = "".join(f"<th{kind}>{escape(name)}</th>" for kind, name in zip(kinds, header, strict=True))
            body = []
            for number, row in enumerate(rows):
                texts = [_cell(cell, (number, column) in best) for column, cell in enumerate(row)]
                cells = "".join(f"<td{kind}>{text}</td>" for kind, text in zip(kinds, texts, strict=True))
                body.append(f"<tr>{cells}</tr>")
            return (
                f'<div class="wide"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n'
                + "\n".join(body)
                + "\n</tbody>\n</table></div>"
            )
        case Picture(alt, svg, caption):
            source = f"data:image/svg+xml;base64,{base64.b64encode(svg.encode()).decode()}"
            return (
                f'<figure><img src="{source}" alt="{escape(alt, quote=True)}">'
                f"<figcaption>{escape(caption)}</figcaption></figure>"
            )


def _class(name: str) -> str:
    return f' class="{name}"' if name else ""


def _cell(cell: Cell, best: bool) -> str:
    for kind, words in (("good", GOOD), ("bad", BAD), ("open", OPEN)):
        if cell in words:
            return f'<span class="badge {kind}">{cell}</span>'
    value, *below = map(escape, lines(cell))
    return (f"<b>{value}</b>" if best else value) + "".join(f"<small>{line}</small>" for line in below)
