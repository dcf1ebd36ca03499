"""Blocks as Markdown and as HTML."""

import re

from fisher_ld.report.blocks import Heading, Picture, Table, Text
from fisher_ld.report.html import html
from fisher_ld.report.markdown import markdown


def test_blocks_are_escaped():
    blocks = [Text("a < b"), Table(["x"], [["<b>"], [("1 | 2", "3")]])]
    assert "<b>" not in html("t & t", blocks)
    assert "a &lt; b" in html("t & t", blocks)
    assert "| 1 \\| 2 (3) |" in markdown("t", blocks)


def test_verdicts_are_badges():
    page = html("t", [Table(["v"], [["equal"], ["reproduced"], ["shown below"]], words=(0,))])
    assert re.findall(r'badge (\w+)">', page) == ["open", "good", "bad"]


def test_an_empty_second_line_leaves_nothing():
    table = Table(["v"], [[("1", "")]])
    assert "| 1 |" in markdown("t", [table]) and "<small>" not in html("t", [table])


def test_markdown_names_pictures_by_their_captions():
    assert "## b\n\n*Picture in report.html: c*" in markdown("a", [Heading("b"), Picture("x", "<svg/>", "c")])
