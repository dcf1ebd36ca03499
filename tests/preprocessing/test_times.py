import polars as pl
import pytest

from fisher_ld.preprocessing.times import Clock, find_clock


def told(texts, clock=None):
    times = pl.Series("t", texts, dtype=pl.String)
    clock = clock or find_clock(times)
    seconds, rest, possible = clock.expressions(times)
    return clock.unit, times.to_frame().select(s=seconds, n=rest, ok=possible & ~clock.none("t")).rows()


@pytest.mark.parametrize(
    ("unit", "texts"),
    [
        ("seconds", ["1577836800", "1577836801.5", "1577836802.0"]),
        ("milliseconds", ["1577836800000", "1577836801500", "1577836802000"]),
        ("microseconds", ["1577836800000000", "1577836801500000", "1577836802000000"]),
        ("nanoseconds", ["1577836800000000000", "1577836801500000000", "1577836802000000000"]),
        (None, ["2020-01-01", "2020-01-01T00:00:01.5Z", "2020-01-01 01:00:02+01:00"]),
    ],
)
def test_the_same_times_in_every_unit(unit, texts):
    found, rows = told(texts)
    assert found == unit or (unit is None and found.startswith("dates"))
    assert rows == [(1577836800, 0, True), (1577836801, 500_000_000, True), (1577836802, 0, True)]


@pytest.mark.parametrize("size", [1, 10**3, 10**6])
def test_times_before_1970_are_rounded_down(size):
    rows = told([str(-5 * size), str(int(-1.5 * size))] if size > 1 else ["-5", "-1.5"], Clock(
        {1: "seconds", 10**3: "milliseconds", 10**6: "microseconds"}[size], early=True, zero=True))[1]  # fmt: skip
    assert rows == [(-5, 0, True), (-2, 500_000_000, True)]


@pytest.mark.parametrize("size", ["seconds", "milliseconds", "microseconds"])
def test_times_keep_every_nanosecond_of_their_text(size):
    more = {"seconds": 0, "milliseconds": 3, "microseconds": 6}[size]
    texts = [f"{sign}{1_500_000_000 * 10**more}.{'0' * (9 - more - 1)}{n}" for sign in ("", "-") for n in (1, 2)]
    texts += [str(1_500_000_000 * 10**more), "1.5e9"]
    assert told(texts, Clock(size, early=True, zero=True))[1][:5] == [
        *((1_500_000_000, n, True) for n in (1, 2)),
        *((-1_500_000_001, 10**9 - n, True) for n in (1, 2)),
        (1_500_000_000, 0, True),
    ]


@pytest.mark.parametrize(
    "text",
    ["1969-12-31T23:59:59Z", "1969-12-31 18:59:59-05", "1970-01-01T05:29:59+0530", "1969-12-31 23:59:59 UTC"],
)
def test_dates_with_zones_and_before_1970(text):
    assert told([text])[1] == [(-1, 0, True)]


@pytest.mark.parametrize(
    "text",
    [
        *("2020-13-01", "yesterday", "2020-01-01T", "20-01-01", ""),
        *("2020-01-31T99:99:99", "2020-01-31T24:00", "2020-01-31 12:60", "2020-01-31 12:00:61", "2020-01-31T12:00+99"),
    ],
)
def test_what_is_no_date_is_impossible(text):
    assert not told(["2020-01-01", "2020-01-02", text])[1][2][2]


def test_a_zero_among_times_of_today_is_none_given():
    assert [row[2] for row in told(["0", "1577836800", "1577836801"])[1]] == [False, True, True]
    assert [row[2] for row in told(["0", "1", "2"])[1]] == [True, True, True]


@pytest.mark.parametrize(
    ("texts", "unit", "last"),
    [
        (["20200131", "20200201.0"], "dates such as 20200131", 1_580_515_200),
        (["20200131", "20201332"], "seconds", 20_201_332),  # no column of dates
        (["20200131", "7"], "seconds", 7),
    ],
)
def test_a_column_of_days_in_eight_digits_holds_dates(texts, unit, last):
    found, rows = told(texts)
    assert (found, rows[1]) == (unit, (last, 0, True))
    assert unit == "seconds" or not told(["20200131", "20209999"], find_clock(pl.Series("t", texts)))[1][1][2]


def test_a_leap_second_is_the_next_minute():
    assert told(["2016-12-31T23:59:60Z"])[1] == [(1_483_228_800, 0, True)]
