"""Titles, years and categories as the sources write them -> clean text."""

from __future__ import annotations

import ast
import html
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

_ARTICLES = "The|A|An|Les|Le|La|L'|Los|Las|El|Il|Der|Die|Das|Den|Det|Un|Une|Een|Ein|Eine|O|Os"
_ARTICLE_LAST = re.compile(rf"^([^()]+), ({_ARTICLES})(?= \(|$)")
_ARTICLE_LAST_IN_BRACKETS = re.compile(rf"\((a\.k\.a\. )?([^()]+), ({_ARTICLES})\)")
_YEAR_LAST = re.compile(r"^(.*?)\s*\((\d{4})(?:[-\u2013](?:\d{4})?)?\)$")
_SCRIPT = re.compile(r"\bvar \w+ ?= ?\(?new Date\(|^<script", re.IGNORECASE)  # page code in Amazon's metadata of 2018
_TAGS = "a|abbr|b|big|br|center|cite|code|div|em|font|h[1-6]|hr|i|img|li|ol|p|pre|q|s|script|small|span|strike|strong"
_MARKUP = re.compile(rf"<!--.*?-->|</?({_TAGS}|style|sub|sup|table|td|tr|tt|u|ul)(?:\s[^<>]*)?/?>", re.I | re.S)
_BLOCKS = {"br", "div", "hr", "li", "p", "td", "tr"}  # a blank stands for them
_SHORT = 16  # words of a short title
_LETTERS = 16  # of a word in a text that is cut
_NO_CATEGORY = {"", "unknown", "(no genres listed)"}


def text(value: Any) -> str | None:
    """A scalar as text, without outer space; None if it is missing (NaN too), empty or no scalar."""
    if not isinstance(value, str):
        if value is None or isinstance(value, list | tuple | dict) or value != value:
            return None
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if not value.isascii():  # a lone surrogate (JSON can spell one) cannot be stored
        value = value.encode("utf-8", "replace").decode()
    return value.strip() or None


def clean(value: Any) -> str | None:
    """As `text`, on one line, without HTML; None also where page code stands in its place."""
    value = text(value)
    if value is None or _SCRIPT.search(value):
        return None
    if "<" in value:
        value = _MARKUP.sub(lambda m: " " if m[1] and m[1].lower() in _BLOCKS else "", value)
    while "&" in value and (decoded := html.unescape(value)) != value:
        value = decoded
    return " ".join(value.split()) or None


def split_year(title: str) -> tuple[str, str | None]:
    """'Toy Story (1995)' -> 'Toy Story', '1995'; a span of years gives the first."""
    match = _YEAR_LAST.match(title)
    return (match[1], match[2]) if match and match[1] else (title, None)


def article_first(title: str) -> str:
    """'Blue Angel, The (Blaue Engel, Der)' -> 'The Blue Angel (Der Blaue Engel)'."""

    def moved(article: str, rest: str) -> str:
        return article + rest if article.endswith("'") else f"{article} {rest}"

    title = _ARTICLE_LAST.sub(lambda m: moved(m[2], m[1]), title)
    return _ARTICLE_LAST_IN_BRACKETS.sub(lambda m: f"({m[1] or ''}{moved(m[3], m[2])})", title)


def item(title: Any, genres: Any, /, **others: Any) -> dict[str, Any]:
    """What `item_text` may name of an item: title, categories, `others`, and the title's first words as `short_title`
    unless that is among `others`."""
    others.setdefault("short_title", " ".join((clean(title) or "").split()[:_SHORT]))
    always = {"title": title, "categories": genres}
    return always | others | always


def movie(title: Any, genres: Any, year: Any = None) -> dict[str, Any]:
    """What `item_text` may name of a film of MovieLens; the year may stand in the title alone."""
    title, year_in_title = split_year(clean(title) or "")
    year = year if str(year).isdigit() else year_in_title
    short_year = f"'{year[-2:]}" if year else None
    return item(article_first(title), genres, year=year, short_year=short_year)


def categories(value: Any) -> list[str]:
    """A list (of lists) of names, or names in one string between '|' or ' > ', each once and in order. Of an object its
    `name` or `title` counts."""
    names = dict.fromkeys(name for part in _flat(value) for name in [clean(part)] if name)
    return [name for name in names if name.lower() not in _NO_CATEGORY]


def _flat(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield from re.split(r"\|| > ", value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part) if not isinstance(part, str) else [part]
    elif isinstance(value, dict):
        yield from _flat(value.get("name") or value.get("title"))
    elif (scalar := text(value)) is not None:
        yield scalar


def listed(value: Any) -> Any:
    """Text of a user's table that holds a list: as JSON or a Python literal, else as it is."""
    found = text(value) if isinstance(value, str) else None
    parsed = parse(found) if found and found[0] in "[({" else None
    return value if parsed is None else parsed


def parse(text: str, literals: bool = True) -> Any:
    """JSON, or with `literals` a Python literal, which is parsed and never evaluated; None for what is neither."""
    for read in (json.loads, ast.literal_eval)[: 1 + literals]:
        try:
            return read(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            continue
    return None


def find_separator(values: Iterable[Any]) -> str | None:
    """The mark (semicolon or comma) between the categories in these texts: most texts that hold it share a part with
    another one. None: '|' or ' > ', or there is none."""
    texts = {value for value in map(listed, values) if isinstance(value, str) and not re.search(r"\|| > ", value)}
    for mark in ";,":
        parts = [{part.strip() for part in value.split(mark)} for value in texts if mark in value]
        seen = Counter(part for value in texts for part in {part.strip() for part in value.split(mark)})
        shared = sum(any(seen[part] > 1 for part in own) for own in parts)
        if parts and 2 * shared > len(parts):
            return mark
    return None


def first_words(text: str, most: int) -> str:
    """The first `most` words, a word being at most 16 letters on average."""
    words = text.split()
    return " ".join(words[:most])[: most * _LETTERS].rstrip()


def fill(template: str, fields: Mapping[str, str | list[str] | None]) -> str:
    """`item_text` with an item's fields. A missing one leaves nothing behind, nor empty brackets around it."""
    values = {name: (", ".join(v) if isinstance(v, list) else v) or "\0" for name, v in fields.items()}
    filled = re.sub(r"\((?:\s*\0)+\s*\)|\[(?:\s*\0)+\s*\]|\0", "", template.format(**values))
    return " ".join(filled.split())
