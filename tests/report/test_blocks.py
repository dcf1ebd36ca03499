"""Blocks as Markdown, as HTML and as LaTeX."""

import re

from fisher_ld.report.blocks import Heading, Picture, Table, Text
from fisher_ld.report.html import html
from fisher_ld.report.latex import latex
from fisher_ld.report.markdown import markdown


def test_blocks_are_escaped():
    blocks = [Text("a < b"), Table(["x"], [["<b>"], [("1 | 2", "3")]])]
    assert "<b>" not in html("t & t", blocks)
    assert "a &lt; b" in html("t & t", blocks)
    assert "| 1 \\| 2 (3) |" in markdown("t", blocks)
    page = latex("t", [*blocks, Text("5% of R&D_x: \\ ~ ^ {#} $ ± \N{GREEK SMALL LETTER SIGMA}")])
    assert "\n{\\footnotesize a $<$ b\\par}\n" in page
    assert r"5\% of R\&D\_x: \textbackslash{} \textasciitilde{} \textasciicircum{} \{\#\} \$ $\pm$ $\sigma$" in page


def test_verdicts_are_badges():
    page = html("t", [Table(["v"], [["equal"], ["reproduced"], ["shown below"]], words=(0,))])
    assert re.findall(r'badge (\w+)">', page) == ["open", "good", "bad"]


def test_an_empty_second_line_leaves_nothing():
    table = Table(["v"], [[("1", "")]])
    assert "| 1 |" in markdown("t", [table]) and "<small>" not in html("t", [table])
    assert "\n1 \\\\\n" in latex("t", [table])


def test_the_best_is_bold_and_lines_below_it_are_small():
    table = Table(["", "v"], [["a", ("1†", "0 to 2")], ["b", ("3", "2 to 4", "", "p = 0.1")]], best=[(1, 1)])
    assert "| b | **3** (2 to 4; p = 0.1) |" in markdown("t", [table])
    assert "<td><b>3</b><small>2 to 4</small><small>p = 0.1</small></td>" in html("t", [table])
    below = r"\scriptsize 2 to 4 \\ \scriptsize p = 0.1"
    assert rf"b & \begin{{tabular}}[t]{{@{{}}r@{{}}}}\textbf{{3}} \\ {below}\end{{tabular}} \\" in latex("t", [table])
    assert r"1$^\dagger$ \\ \scriptsize 0 to 2" in latex("t", [table])


def test_a_table_in_latex_is_a_tabular_of_booktabs_without_pictures():
    blocks = [Heading("h"), Picture("x", "<svg/>", "c"), Table(["m", "v"], [["a", "1"]])]
    assert latex("t", blocks) == (
        "% t\n\n\\paragraph{h}\n\n\\begin{tabular}{lr}\n\\toprule\nm & v \\\\\n\\midrule\na & 1 \\\\\n"
        "\\bottomrule\n\\end{tabular}\n"
    )


def test_markdown_names_pictures_by_their_captions():
    assert "## b\n\n*Picture in report.html: c*" in markdown("a", [Heading("b"), Picture("x", "<svg/>", "c")])
