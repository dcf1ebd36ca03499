"""Times as files have them -> seconds since 1970, and what is left of the second."""

from __future__ import annotations

from dataclasses import dataclass

import polars as pl

YEAR_2100 = 4_102_444_800  # seconds since 1970; milliseconds taken for seconds lie far beyond
UNITS = {"seconds": 1, "milliseconds": 10**3, "microseconds": 10**6, "nanoseconds": 10**9}
AS_TEXT = "dates such as 2020-01-31T12:00:00Z"
AS_DAYS = "dates such as 20200131"
ISO = (
    r"^(\d{4}-\d{2}-\d{2})(?:[T ]([01]\d|2[0-3]):([0-5]\d)(?::([0-5]\d|60)(?:[.,](\d{1,9})\d*)?)?)?"  # a leap second
    r"\s*(?:(?:Z|UTC|GMT)|([+-])([01]\d|2[0-3]):?([0-5]\d)?)?$"
)
DAY = r"^((?:19|20)\d{6})(?:\.0)?$"
DECIMAL = r"^([+-]?)(\d+)\.(\d{1,9})\d*$"
SOON = 10**8  # a file whose times are commonly beyond 1973 has 0 for no time


@dataclass(frozen=True)
class Clock:
    """How a file tells time. `unit`: of UNITS, AS_TEXT or AS_DAYS. `early`: times before 1970 are possible. `zero`: so
    is 0, which else stands for none."""

    unit: str = "seconds"
    early: bool = False
    zero: bool = False

    @property
    def what(self) -> str:
        return f"time in {self.unit} since 1970" if self.unit in UNITS else f"time as {self.unit}"

    def expressions(self, texts: pl.Series) -> tuple[pl.Expr, pl.Expr, pl.Expr]:
        """Of the column with these texts: seconds (rounded down), nanoseconds beyond, whether such a time can be."""
        if self.unit in UNITS:
            seconds, rest = _number(texts, UNITS[self.unit])
        else:
            seconds, rest = _iso(texts.name) if self.unit == AS_TEXT else _days(texts.name)
        possible = (seconds > -YEAR_2100 if self.early else (seconds > 0) | ((seconds == 0) & (rest > 0))) & (
            seconds < YEAR_2100
        )
        return seconds, rest, possible

    def none(self, name: str) -> pl.Expr:
        return pl.lit(False) if self.zero or not self.early else pl.col(name).cast(pl.Float64, strict=False) == 0


def find_clock(times: pl.Series) -> Clock:
    """Of a user's file, by the middle one of these texts of it."""
    days = times.to_frame().select(_days(times.name)[0]).to_series()
    if days.count() and days.null_count() == times.null_count():
        return Clock(AS_DAYS, early=True, zero=True)
    numbers = times.cast(pl.Float64, strict=False).abs().drop_nulls().drop_nans()
    if 2 * len(numbers) <= times.len() - times.null_count():
        return Clock(AS_TEXT, early=True, zero=True)
    middle = numbers.median()
    assert isinstance(middle, float)
    unit = next((name for name, size in UNITS.items() if middle < 10**11 * size), "nanoseconds")
    return Clock(unit, early=True, zero=middle / UNITS[unit] < SOON)


def _number(texts: pl.Series, size: int) -> tuple[pl.Expr, pl.Expr]:
    found = texts.cast(pl.Int64, strict=False)
    whole = pl.lit(found)
    seconds, rest = whole // size, (whole - whole // size * size) * (10**9 // size)
    if found.null_count() == texts.null_count():
        return seconds, rest
    exact = _decimal(texts.name, size)
    value = pl.col(texts.name).cast(pl.Float64, strict=False) / size  # such as 1.5e9
    below = ((value - value.floor()) * 1e9).round().cast(pl.Int64, strict=False)
    floor = value.floor().cast(pl.Int64, strict=False)
    return pl.coalesce(seconds, exact[0], floor), pl.coalesce(rest, exact[1], below)


def _decimal(name: str, size: int) -> tuple[pl.Expr, pl.Expr]:
    """Digit by digit, as float64 holds no nanoseconds of today."""
    part = pl.col(name).str.extract_groups(DECIMAL).struct
    whole = part.field("2").cast(pl.Int64, strict=False)
    fraction = part.field("3").str.pad_end(9, "0").cast(pl.Int64, strict=False)  # of a unit, 1e-9
    seconds, rest = whole // size, whole % size * (10**9 // size) + fraction // size
    below = (part.field("1") == "-") & (rest > 0)
    sign = pl.when(part.field("1") == "-").then(-1).otherwise(1)
    return sign * seconds - below.cast(pl.Int64), pl.when(below).then(10**9 - rest).otherwise(rest)


def _days(name: str) -> tuple[pl.Expr, pl.Expr]:
    day = pl.col(name).str.extract(DAY).str.to_date("%Y%m%d", strict=False).cast(pl.Int32).cast(pl.Int64)
    return day * 86_400, day * 0


def _iso(name: str) -> tuple[pl.Expr, pl.Expr]:
    part = pl.col(name).str.extract_groups(ISO).struct

    def number(index: int) -> pl.Expr:
        return part.field(str(index)).cast(pl.Int64, strict=False).fill_null(0)

    day = part.field("1").str.to_date("%Y-%m-%d", strict=False).cast(pl.Int32).cast(pl.Int64)
    sign = pl.when(part.field("6") == "-").then(-1).otherwise(1)
    east = sign * (number(7) * 3600 + number(8) * 60)
    seconds = day * 86_400 + number(2) * 3600 + number(3) * 60 + number(4) - east
    rest = part.field("5").str.pad_end(9, "0").cast(pl.Int64, strict=False).fill_null(0)
    return seconds, rest
