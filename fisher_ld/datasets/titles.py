"""Titles, years and categories as the sources write them -> clean text."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping
from typing import Any

_ARTICLES = "The|A|An|Les|Le|La|L'|Los|Las|El|Il|Der|Die|Das|Den|Det|Un|Une|Een|Ein|Eine|O|Os"
_ARTICLE_LAST = re.compile(rf"^([^()]+), ({_ARTICLES})(?= \(|$)")
_ARTICLE_LAST_IN_BRACKETS = re.compile(rf"\((a\.k\.a\. )?([^()]+), ({_ARTICLES})\)")
_YEAR_LAST = re.compile(r"^(.*?)\s*\((\d{4})(?:[-\u2013](?:\d{4})?)?\)$")
_SCRIPT = re.compile(r"getTime\(\)|<script|</?span", re.IGNORECASE)  # page code in Amazon's metadata of 2018
_SHORT = 16  # words of a short title
_NO_CATEGORY = {"", "unknown", "(no genres listed)"}


def text(value: Any) -> str | None:
    """A scalar as text, without outer space; None if it is missing, empty or no scalar."""
    if not isinstance(value, str):
        if value is None or isinstance(value, list | tuple | dict):
            return None
        value = str(value)
    if not value.isascii():  # a lone surrogate (JSON can spell one) cannot be stored
        value = value.encode("utf-8", "replace").decode()
    return value.strip() or None


def clean(value: Any) -> str | None:
    """As `text`, on one line, HTML entities decoded; None also where page code stands in its place."""
    value = text(value)
    if value is None or _SCRIPT.search(value):
        return None
    return " ".join(html.unescape(value).split()) or None


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
    """A list (of lists) of names, or names in one string between '|' or ' > ', each once and in order."""
    names = dict.fromkeys(name for part in _flat(value) for name in [clean(part)] if name)
    return [name for name in names if name.lower() not in _NO_CATEGORY]


def _flat(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield from re.split(r"\|| > ", value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part) if not isinstance(part, str) else [part]


def fill(template: str, fields: Mapping[str, str | list[str] | None]) -> str:
    """`item_text` with an item's fields. A missing one leaves nothing behind, nor empty brackets around it."""
    values = {name: ", ".join(v) if isinstance(v, list) else v or "" for name, v in fields.items()}
    return " ".join(re.sub(r"\(\s*\)|\[\s*\]", "", template.format(**values)).split())
