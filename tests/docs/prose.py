"""Sentences of a Markdown page, their words and their numbers, as tests/docs/test_prose.py counts them."""

from __future__ import annotations

import re
from dataclasses import dataclass

NOT_PROSE = (
    re.compile(r"^```.*?^```\s*?$", re.S | re.M),  # code
    re.compile(r"<!--.*?-->", re.S),
    re.compile(r"^!\[[^\n]*$", re.M),  # pictures
    re.compile(r"^\*[^*\n]+\*$", re.M),  # captions: a line in italics
    re.compile(r"^\|[^\n]*$", re.M),  # tables
    re.compile(r"^#[^\n]*$", re.M),  # headings
    re.compile(r"^\[\^[^\n]*$", re.M),  # footnotes
)
NAMES = (  # of which a number is a part
    re.compile(r"\b(?:Eqs?\.|Tables?|Algorithm|Theorems?|Figure|Python|CFF) \d[\d.]*\b(?:(?:, | and | to )\d+\b)*"),
    re.compile(r"\b(?:in|of|since|Amazon(?: Reviews)?,?) (?:19|20)\d{2}\b(?:(?:, | and )(?:19|20)\d{2}\b)*"),  # years
    re.compile(r"\b\d{4}-\d{2}-\d{2}\b"),  # dates
    re.compile(r"\b\d+\.\d+\.\d+\b"),  # versions
)
NUMBER = re.compile(r"(?<![\w@.,-])\d[\d,.]*(?:e[+-]?\d+)?(?!\w|-\w)")
ABBREVIATION = re.compile(r"\b(e\.g|i\.e|vs|Eqs?|cf|No|al)\.")


@dataclass(frozen=True)
class Sentence:
    text: str
    words: int
    numbers: int


def sentences(markdown: str) -> list[Sentence]:
    """The sentences of a page's prose."""
    for pattern in NOT_PROSE:
        markdown = pattern.sub("\n\n", markdown)
    markdown = re.sub(r"^\s*(?:[-*>]|\d+\.)\s+", "\n\n", markdown, flags=re.M)  # an item of a list stands alone
    markdown = re.sub(r"\[\^[^\]]*\]", "", markdown)
    markdown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", markdown)  # a link is its text
    markdown = re.sub(r"`[^`]*`", "CODE", markdown)
    found = []
    for paragraph in re.split(r"\n\s*\n", markdown):
        text = ABBREVIATION.sub(lambda match: match[1] + "\0", " ".join(paragraph.split()))
        for part in re.split(r"""(?<=[.!?])["')*]*\s+(?=["'(*]*[A-Z0-9])""", text):
            sentence = part.replace("\0", ".").replace("*", "")
            if words := [word for word in sentence.split() if re.search(r"\w", word)]:
                found.append(Sentence(sentence, len(words), _numbers(sentence)))
    return found


def _numbers(sentence: str) -> int:
    for name in NAMES:
        sentence = name.sub("", sentence)
    return len(NUMBER.findall(sentence))
