"""Raw tables out of rows, and back."""

from __future__ import annotations

import polars as pl

from fisher_ld.preprocessing.readers import INTERACTIONS, REJECTED, Raw

LIKES = INTERACTIONS | {"user": pl.String, "item": pl.String}


def raw_of(rows, items=None):
    """`rows`: (user, item, rating, timestamp), all of one order, or with an order of their own."""
    likes = pl.DataFrame([(*row, 0)[:5] for row in rows], schema=LIKES, orient="row")
    ids = [likes[name].unique().sort(descending=True) for name in ("user", "item")]  # not as places are
    numbers = [likes[one.name].replace_strict(one, range(len(one)), return_dtype=pl.UInt32) for one in ids]
    items = pl.DataFrame(schema={"item": pl.String}) if items is None else items
    rejected = pl.DataFrame(schema=REJECTED)
    return Raw(likes.with_columns(numbers).lazy(), *ids, items, rejected, {"ratings": len(rows)}, 0)


def by_id(raw):
    """The interactions with ids in place of numbers."""
    likes = raw.interactions.collect()
    return likes.with_columns(raw.user_ids.gather(likes["user"]), raw.item_ids.gather(likes["item"]))
