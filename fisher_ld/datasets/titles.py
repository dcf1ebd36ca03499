"""Titles, years and categories as the sources write them -> clean text."""

from __future__ import annotations

import ast
import html
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping
from decimal import Decimal
from functools import lru_cache, partial
from itertools import islice
from math import isfinite
from typing import Any

_ARTICLES = "The|A|An|Les|Le|La|L'|Los|Las|El|Il|Der|Die|Das|Den|Det|Un|Une|Een|Ein|Eine|O|Os"
_ARTICLE_LAST = re.compile(rf"^([^()]+), ({_ARTICLES})(?= \(|$)")
_ARTICLE_LAST_IN_BRACKETS = re.compile(rf"\((a\.k\.a\. )?([^()]+), ({_ARTICLES})\)")
_YEAR_LAST = re.compile(r"^(.*?)\s*\((\d{4})(?:[-\u2013](?:\d{4})?)?\)$")
_PAGE_CODE = re.compile(r"\bvar \w+ ?= ?\(?new Date\(", re.IGNORECASE)  # in Amazon's metadata of 2018
_UNSHOWN = re.compile(
    r"<script(?=[\s/>]).*?(?:</script\s*>|\Z)|<style(?=[\s/>])[^<]*+</style\s*>|<!--.*?-->|<!doctype [^<>]*>",
    re.I | re.S,
)
_CDATA = re.compile(r"<!\[CDATA\[(.*?)\]\]>", re.S)
_TAGS = (
    "a|abbr|article|aside|audio|b|big|blockquote|body|br|button|center|cite|code|col|dd|del|div|dl|dt|em|figure|font|"
    "footer|form|h[1-6]|head|header|hr|html|i|iframe|img|input|ins|kbd|li|link|mark|meta|nav|ol|option|p|pre|q|s|samp|"
    "script|section|select|small|span|strike|strong|style|sub|sup|svg|table|tbody|td|textarea|tfoot|th|thead|tr|tt|u|ul"
)
_ATTRIBUTES = r"""\s(?:"[^"]*"|'[^']*'|[^<>"'])*+|\s[^<>]*"""  # a quoted value may hold a >
_MARKUP = re.compile(rf"</?({_TAGS})(?:{_ATTRIBUTES})?/?>", re.I)
_PLAIN = re.compile(r"[!-%'-;=-~]+(?: [!-%'-;=-~]+)*")  # ASCII on one line, without entities and tags
_UNSEEN = {"Cc", "Cf", "Zs", "Zl", "Zp"}  # categories of Unicode, such as that of a zero-width space
_BLOCKS = {"body", "br", "dd", "div", "dt", "hr", "li", "p", "section", "td", "th", "tr"}  # a blank stands for them
_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_NUMPY = re.compile(rf"""({_QUOTED}|\]|\bnan\b)(?=(\s+(?:['"\[]|nan\b))?)""", re.S)
_SHORT = 16  # words of a short title
_NO_BLANKS = (  # scripts without blanks between words
    "\u0e00-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    "\u2600-\u27bf\U0001f000-\U0001faff"  # symbols
    "\u2e80-\u2fff\u3001-\u312f\u3190-\ua4cf\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"  # Chinese, Japanese
)
_MARKS = "\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u3099\u309a\ufe0e\ufe0f\U0001f3fb-\U0001f3ff"  # of the letter before
_WORD = re.compile(rf"[{_NO_BLANKS}](?:[{_MARKS}]|\u200d[{_NO_BLANKS}])*|[^\s{_NO_BLANKS}]+")
_NO_CATEGORY = {"", "unknown", "(no genres listed)"}


def text(value: Any) -> str | None:
    """A scalar as text, without outer space; None if it is missing (NaN too), empty or no scalar. A float has no
    exponent, a whole one no decimals."""
    if not isinstance(value, str):
        if value is None or isinstance(value, list | tuple | dict | set) or value != value:
            return None
        if isinstance(value, float) and isfinite(value):
            value = format(Decimal(repr(float(value))).normalize(), "f")
        value = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if not value.isascii():  # a lone surrogate (JSON can spell one) cannot be stored
        value = value.encode("utf-8", "replace").decode()
    return value.strip() or None


def clean(value: Any) -> str | None:
    """As `text`, on one line, without HTML; None also where nothing can be seen, or page code stands in its place."""
    return _cleaned(text(value) or "")


@lru_cache(maxsize=256)  # for a title makes other texts too
def _cleaned(value: str) -> str | None:
    before, plain = None, False
    while value != before and not (plain := bool(_PLAIN.fullmatch(value))):  # tags may be hidden by entities
        before, value = value, " ".join(decoded(_without_markup(value)).split())
    seen = plain or any(unicodedata.category(letter) not in _UNSEEN for letter in value)
    return value if seen and not _PAGE_CODE.search(value) else None


def decoded(value: str) -> str:
    """Entities as what they stand for, also those of entities."""
    while "&" in value and (found := html.unescape(value)) != value:
        value = found
    return value


def _without_markup(value: str) -> str:
    if "<" not in value:
        return value
    value = _CDATA.sub(r"\1", _UNSHOWN.sub(" ", value))
    return _MARKUP.sub(lambda tag: " " if tag[1].lower() in _BLOCKS else "", value)


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
    unless `others` have one."""
    if others.get("short_title") is None:
        others["short_title"] = _first_words(clean(title) or "", _SHORT)
    always = {"title": title, "categories": genres}
    return always | others | always


def movie(title: Any, genres: Any, year: Any = None) -> dict[str, Any]:
    """What `item_text` may name of a film of MovieLens; the year may stand in the title alone."""
    title, year_in_title = split_year(clean(title) or "")
    year = year if str(year).isdigit() else year_in_title
    short_year = f"'{year[-2:]}" if year else None
    return item(article_first(title), genres, year=year, short_year=short_year)


def categories(value: Any) -> list[str]:
    """A list (of lists) of names, or names in one string between '|' or ' > ', each once and in order; a set is sorted.
    Of an object its `name` or `title` counts."""
    if value is None:
        return []
    names = dict.fromkeys(name for part in _flat(value) for name in [clean(part)] if name)
    return [name for name in names if name.lower() not in _NO_CATEGORY]


def _flat(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield from re.split(r"\|| > ", value)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _flat(part) if not isinstance(part, str) else [part]
    elif isinstance(value, set):
        yield from _flat(sorted(value, key=str))
    elif isinstance(value, dict):
        yield from _flat(value.get("name") or value.get("title"))
    elif (scalar := text(value)) is not None:
        yield scalar


def listed(value: Any) -> Any:
    """Text of a user's table that holds a list: as JSON, a Python literal or NumPy prints it. Else the text without
    entities, whose semicolons part nothing."""
    if not isinstance(value, str):
        return value
    plain = decoded(value)
    for found in dict.fromkeys([value.strip(), plain.strip()]):
        if found[:1] in ("[", "(", "{") and (parsed := parse(_NUMPY.sub(_comma, found))) is not None:
            return parsed
    return plain


def _comma(part: re.Match[str]) -> str:
    """NumPy sets no commas, and Python would join the texts; nan is no literal."""
    return ("None" if part[1] == "nan" else part[1]) + ("," if part[2] else "")


class Repeated(dict[str, Any]):
    """A JSON object in which a field stands twice; the first counts."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    return found if len(found) == len(pairs) else Repeated(reversed(pairs))


def parse(text: str, literals: bool = True) -> Any:
    """JSON, or with `literals` a Python literal, which is parsed and never evaluated; None for what is neither."""
    for read in (partial(json.loads, object_pairs_hook=_object), ast.literal_eval)[: 1 + literals]:
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


def _first_words(text: str, most: int) -> str:
    if text.isascii():
        return " ".join(text.split(maxsplit=most)[:most])
    end = 0
    for word in islice(_WORD.finditer(text), most):
        end = word.end()
    return text[:end]


def fill(template: str, fields: Mapping[str, str | list[str] | None]) -> str:
    """`item_text` with an item's fields. A missing one leaves nothing behind, nor empty brackets around it."""
    values = {name: (", ".join(v) if isinstance(v, list) else v) or "\0" for name, v in fields.items()}
    filled = re.sub(r"\((?:\s*\0)+\s*\)|\[(?:\s*\0)+\s*\]|\0", "", template.format(**values))
    return " ".join(filled.split())
