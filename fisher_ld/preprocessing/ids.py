"""Ids that mean the same -> the same text, on the side of the interactions and on that of the items."""

from __future__ import annotations

import re
from decimal import Decimal

import polars as pl

WHOLE = r"^(-?\d+)(?:\.0+|,00?)$"  # 1,000 is no decimal comma
EXPONENT = r"^-?\d(?:\.\d+)?[eE]\+\d+$"  # as libraries write large floats; 1e5 without the sign may be a hash
PADDED = r"^0+(\d+)$"


def same_id(text: str) -> str:
    """7.00 and 7,0 are the id 7, and 1e+16 is 10000000000000000."""
    if text.isalnum():  # as most are
        return text
    if "e+" in text.lower() and re.match(EXPONENT, text) and (number := Decimal(text)) == int(number):
        return str(int(number))  # its digits, as `text` writes a float: not those of the nearest power of two
    return re.sub(WHOLE, r"\1", text)


def same_ids(texts: pl.Series) -> pl.Series:
    """`same_id` of each."""

    def any_holds(mark: str) -> bool:
        return bool(texts.str.contains(mark, literal=True).any())

    if any_holds("+"):
        large = texts.filter(texts.str.contains(EXPONENT)).unique().to_list()
        texts = texts.replace({text: same_id(text) for text in large})
    return texts.str.replace(WHOLE, "$1") if any_holds(".") or any_holds(",") else texts
