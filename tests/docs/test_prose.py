"""The prose of README.md and docs/*.md: half of a page's sentences have at most 20 words, none has more than 35, and
none more than two numbers.

Prose is what is left without code blocks, tables, headings, pictures, captions (a line in italics), footnotes and
HTML comments. A list item ends the sentence before it; a colon or a semicolon ends none. A code span and a link's text
stand for themselves, the first as one word; a link's target does not count. A number is a run of digits that stands
alone, with its point, commas or per cent. No number is what belongs to a name or a date: MovieLens-100K, H100,
NDCG@10, Eq. 7, Table 3, Python 3.11, a version (1.2.0), 2026-11-28, a year after `in`, `of`, `since` or `Amazon`, and
what stands in a code span. A number in words is none.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median

import pytest

from tests.docs.prose import sentences

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MEDIAN, LONGEST, NUMBERS = 20, 35, 2


def faults(markdown: str) -> list[str]:
    found = sentences(markdown)
    result = [f"{s.words} words (at most {LONGEST}): {s.text}" for s in found if s.words > LONGEST]
    result += [f"{s.numbers} numbers (at most {NUMBERS}): {s.text}" for s in found if s.numbers > NUMBERS]
    middle = median(s.words for s in found)
    return result + ([f"median of {middle:g} words (at most {MEDIAN})"] if middle > MEDIAN else [])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_a_page_is_written_in_short_sentences_with_few_numbers(page):
    assert faults(page.read_text(encoding="utf-8")) == []


def test_long_sentences_are_found():
    assert faults(" ".join(["word"] * 36) + ".") == [
        f"36 words (at most 35): {' '.join(['word'] * 36)}.",
        "median of 36 words (at most 20)",
    ]
    assert faults(" ".join(["word"] * 35) + ". Short one. Short two.") == []
    assert faults(f"{' '.join(['word'] * 21)}. {' '.join(['Word'] * 21)}.") == ["median of 21 words (at most 20)"]


def test_many_numbers_are_found():
    text = "Ours takes 0.94, 0.90 and 96% of a step."
    assert faults(text) == [f"3 numbers (at most 2): {text}"]
    assert faults("The years 1,000 and 2000 have 3 more.") != []
    assert faults("It gained +0.037 (+0.016 to +0.058).") != []


@pytest.mark.parametrize(
    "text",
    [
        "MovieLens-100K on an H100 has an NDCG@10 of 0.5 in bf16 with SmolLM2-135M after 40 steps.",
        "Eq. 7 takes Eq. 5, 6 and Algorithm 2. As Table 3 says, in Python 3.11 with version 1.2.0 since 2024.",
        "On 2026-11-28 and 2026-11-29 it took 3 hours.",
        "`fisher.beta=0.3` and `1 2 3 4` are code, [a link](page-1-2-3.md) is text.",
        "| 1 | 2 | 3 |\n\n```\n1 2 3\n```\n\n# 1 2 3\n\n![1 2 3](a.png)\n\n*1 2 3 4 below it*\n\n[^a]: 1 2 3\n\nProse.",
    ],
)
def test_names_dates_code_and_tables_hold_no_numbers(text):
    assert faults(text) == []


def test_sentences_end_where_a_reader_ends_them():
    text = 'One is e.g. short. Two? "Three." See Eq. 7 there.\n- An item\n  goes on; and on\n- another\n\n1. last'
    found = ["One is e.g. short.", "Two?", '"Three.', "See Eq. 7 there.", "An item goes on; and on", "another", "last"]
    assert [s.text for s in sentences(text)] == found
