"""What the raw tables hold, told before the filters: ratings, items that are lacking or have no title or text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.preprocessing.readers import Raw

VALUES = 20  # of a histogram, above which it has bins
WORTH_A_WARNING = 0.01  # share of interactions without an item
RARE = 0.05
COMMON_END = 0.25
MAYBE_NONE = (0.0, -1.0)  # ratings that stand for none in some tables, at the low end of the scale
NAMED = 20  # items in a list of examples
FEW = 3  # of them in a line
WITHOUT_TEXT = "without_text.parquet"  # items that are left out, for they have no title or no text
YEAR_1975 = 157_766_400  # seconds since 1970


def raw_notes(raw: Raw, data: DataSet) -> dict[str, Any]:
    """For the data report. Raises UserError where no interaction could be read, or more of them than
    `max_items_lacking` name an item without a row."""
    counts = raw.interactions.group_by("item").len().collect(engine="streaming")
    counts = counts.select(raw.item_ids.gather(counts["item"]), "len").group_by("item").sum()
    total = int(counts["len"].sum())
    if not total:
        files = ", ".join(name for name, rows in raw.rows.items() if len(raw.rejected.filter(file=name)) == rows)
        raise UserError(f"no row of {files} could be used; the reasons are in the rejected rows: mend the file")
    lacking = counts.join(raw.items, on="item", how="anti")
    share = float(lacking["len"].sum() or 0) / total
    if share > data.max_items_lacking:
        here, there = lacking["item"].min(), raw.items["item"].min()
        raise UserError(
            f"{share:.1%} of the interactions name an item that the items file lacks, such as {here!r}; its own ids "
            f"are such as {there!r}. Allowed are {data.max_items_lacking:.0%} (max_items_lacking). Write the ids of "
            "both files alike, or name the right columns in source.columns."
        )
    columns, uncategorised = data.source.columns, raw.items.filter(pl.col("categories").list.len() == 0)["item"]
    untitled = raw.items.filter(pl.col("title").is_null())["item"]
    return {
        "items_lacking": {"share": share, "items": len(lacking), "examples": lacking["item"].sort()[:NAMED].to_list()},
        "items_without_title": {"items": len(untitled), "examples": untitled[:NAMED].to_list()},
        "items_read_without_category": {
            "items": 0 if columns is not None and columns.categories is None else len(uncategorised),
            "of": len(raw.items),
            "examples": uncategorised[:NAMED].to_list(),
        },
        "items_in_several_rows": raw.repeated,
        "ratings": _ratings(raw.interactions, data.positive_rating),
        "times": _times(raw.interactions),
    }


def _times(interactions: pl.LazyFrame) -> dict[str, int] | None:
    """The first and the last, in seconds since 1970, how many there are, and those before 1975; None without times."""
    time = pl.col("timestamp")
    told = interactions.select(first=time.min(), last=time.max(), count=time.count(), early=(time < YEAR_1975).sum())
    found = told.collect(engine="streaming").row(0, named=True)
    return None if found["first"] is None else found


def without_text(items: pl.Series, raw: Raw) -> dict[str, Any]:
    """For the data report: `items` whose text is empty, which no model could tell apart, and what they take along."""
    numbers = raw.item_ids.is_in(items.implode()).arg_true()
    rows = raw.interactions.filter(pl.col("item").is_in(numbers.implode())).select(pl.len()) if len(numbers) else None
    lost = int(rows.collect(engine="streaming").item()) if rows is not None else 0
    return {"items": len(items), "interactions": lost, "examples": items[:NAMED].to_list()}


def without_text_lines(found: Mapping[str, Any], item_text: str) -> Iterator[str]:
    if found["items"]:
        examples = ", ".join(map(repr, found["examples"][:FEW]))
        yield (
            f"warning: item_text {item_text!r} gives {found['items']} items an empty text, such as {examples}: they "
            f"are left out, and with them {found['interactions']} interactions; name a field that every item has. All "
            f"are listed in {WITHOUT_TEXT}"
        )


def _ratings(interactions: pl.LazyFrame, threshold: float) -> dict[str, Any] | None:
    """None without ratings. `histogram`: rating -> rows, of many values in bins by their lower end."""
    counts = interactions.group_by("rating").len().drop_nulls().sort("rating").collect(engine="streaming")
    if not len(counts):
        return None
    total, low, high = int(counts["len"].sum()), float(counts["rating"][0]), float(counts["rating"][-1])
    ends = counts.filter(pl.col("rating").is_in(MAYBE_NONE))
    kept = int(counts.filter(pl.col("rating") >= threshold)["len"].sum()) / total
    if len(counts) > VALUES:
        bins = ((pl.col("rating") - low) / (high - low) * VALUES).floor().clip(0, VALUES - 1)
        lower_end = (low + bins * (high - low) / VALUES).alias("rating")
        counts = counts.group_by(lower_end).agg(pl.col("len").sum()).sort("rating")
    histogram = {f"{rating:.6g}": rows for rating, rows in counts.iter_rows()}
    shares = {f"{rating:g}": rows / total for rating, rows in ends.iter_rows()}
    return {"histogram": histogram, "lowest": low, "highest": high, "shares": shares, "share_positive": kept}


def note_lines(notes: Mapping[str, Any], rejected: pl.DataFrame, data: DataSet) -> Iterator[str]:
    """What of the notes a user should see, a line each."""
    if len(rejected):
        file, row, reason, _ = rejected.row(0)
        yield f"warning: {len(rejected)} rows cannot be used, the first is row {row} of {file}: {reason}"
    lacking = notes["items_lacking"]
    mark = "warning: " if lacking["share"] > WORTH_A_WARNING else ""
    example = f", such as {lacking['examples'][0]!r}" if lacking["examples"] else ""
    yield f"{mark}{lacking['share']:.1%} of the interactions name an item without a row in the items file{example}"
    if notes["items_without_title"]["items"]:
        yield (
            f"{notes['items_without_title']['items']} items have no title and are left out, such as "
            f"{notes['items_without_title']['examples'][0]!r}; all are listed in {WITHOUT_TEXT}"
        )
    if (lost := notes["items_read_without_category"])["items"]:
        mark = "warning: " if lost["items"] == lost["of"] else ""
        yield (
            f"{mark}{lost['items']} of {lost['of']} items have no category, such as {lost['examples'][0]!r}; of an "
            "object its name or title is read"
        )
    if notes["items_in_several_rows"]:
        yield (
            f"warning: {notes['items_in_several_rows']} items have several rows; the first with a title is taken, "
            "with its categories alone"
        )
    if notes["times"] is not None:
        yield from _time_lines(notes["times"])
    if notes["ratings"] is not None:
        yield from _rating_lines(notes["ratings"], data.positive_rating)


def _time_lines(times: Mapping[str, int]) -> Iterator[str]:
    first, last = (datetime.fromtimestamp(times[end], UTC).strftime("%Y-%m-%d %H:%M:%S") for end in ("first", "last"))
    yield f"times: {first} to {last}"
    if times["last"] < YEAR_1975:
        yield (
            "warning: all times lie before 1975: where these are days of a spreadsheet, years or a mere order, write "
            "them as dates such as 2020-01-31, or name their column in source.columns.order"
        )
    elif times["early"]:
        yield (
            f"warning: {times['early']} of {times['count']} times lie before 1975, the others later: where a file "
            "mixes seconds with milliseconds or days, histories are out of order; write all times in one unit"
        )


def _rating_lines(ratings: Mapping[str, Any], threshold: float) -> Iterator[str]:
    yield "ratings: " + ", ".join(f"{rating}: {rows}" for rating, rows in ratings["histogram"].items())
    kept = ratings["share_positive"]
    if not RARE <= kept <= 1 - RARE:
        yield f"warning: {kept:.1%} of the ratings are positive (positive_rating: {threshold:g})"
    if ratings["highest"] > 5 and threshold == 4:
        yield f"warning: ratings reach {ratings['highest']:g}, and positive_rating is {threshold:g}"
    if ratings["lowest"] in MAYBE_NONE and ratings["highest"] > 1:
        for rating, share in ratings["shares"].items():
            if share > COMMON_END:
                yield (
                    f"warning: {share:.0%} of the ratings are {rating}; where that stands for none given, leave these "
                    "rows out"
                )
