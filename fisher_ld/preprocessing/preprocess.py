"""Raw files -> what every later stage reads: items, users, sequences, candidate lists, the template of the prompt."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from fisher_ld.config.params import DataSet
from fisher_ld.config.paths import BASE, HISTORY, for_tests
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, write_json
from fisher_ld.core.locks import work_root
from fisher_ld.core.progress import say
from fisher_ld.datasets.titles import fill
from fisher_ld.preprocessing.candidates import Catalogue, ListWriter
from fisher_ld.preprocessing.filters import Positives, keep_positives
from fisher_ld.preprocessing.notes import WITHOUT_TEXT, note_lines, raw_notes, without_text, without_text_lines
from fisher_ld.preprocessing.readers import Raw, read_source
from fisher_ld.preprocessing.report import alike_lines, data_report, popularity_lines, window_lines
from fisher_ld.preprocessing.splits import (
    WARM,
    Split,
    choose,
    cold_items,
    cold_roles,
    folds,
    global_time,
    leave_last_out,
    stream,
)

TOKENIZER = BASE / "tokenizer.json"
AT_ONCE = 10_000  # texts
EXAMPLE = 200  # characters of an unreadable row in a message


def preprocess(raw_dir: Path, out_dir: Path, data: DataSet, seed: int, tokenizer: Path = TOKENIZER) -> dict[str, Any]:
    """Writes the folders `out_dir` and `for_tests(out_dir)`, each all or nothing, and returns the data report. The same
    files, params and seed give the same values. `tokenizer`: tokenizer.json of the teacher, by which long texts are
    cut. Raises UserError for a missing or empty file, too many unreadable rows (they are then kept in
    `out_dir`.rejected.parquet, in the original repository), no users left, or lists that cannot be drawn."""
    fields = sorted({name for _, name, _, _ in Formatter().parse(data.item_text) if name})
    kept_aside = (work_root() / out_dir).with_name(f"{out_dir.name}.rejected.parquet")
    kept_aside.unlink(missing_ok=True)
    with atomic_path(out_dir) as folder, atomic_path(for_tests(out_dir)) as test:
        test.mkdir()
        work = folder / "work"
        work.mkdir(parents=True)
        raw = read_source(raw_dir, data.source, work, fields, data.missing)
        _check_rejected(raw, data.max_rejected, kept_aside)
        if data.source.kind == "table":
            raw = replace(raw, items=raw.items.with_columns(_present(data.missing)))
        notes = raw_notes(raw, data)
        say(*note_lines(notes, raw.rejected, data))
        say(*_empty_fields(raw.items, fields))
        described, cut = _with_text(raw.items, data.item_text, data.max_tokens, tokenizer)
        items = described.filter(pl.col("text") != "")
        empty = described.filter(text="")["item"]
        raw.items.join(items, on="item", how="anti").select("item", "title").write_parquet(folder / WITHOUT_TEXT)
        notes |= {"items_without_text": without_text(empty, raw)}
        say(*without_text_lines(notes["items_without_text"], data.item_text))
        positives, steps = keep_positives(raw, items["item"], data, seed)
        shutil.rmtree(work)
        raw.rejected.write_parquet(folder / "rejected.parquet")
        write_json(folder / "prompt.json", data.prompt)
        write_json(folder / HISTORY, {"length": data.history_length})
        tied = _write_tables(folder, test, items, positives, data, seed)
        report = data_report(folder, test, data, raw.rejected, raw.rows, steps, tied) | notes | {"texts_cut": cut}
    say(*alike_lines(report))
    say(*window_lines(report, data))
    say(*popularity_lines(report))
    return report


def _present(missing: Sequence[str]) -> pl.Expr:
    """The categories without the words that stand for nothing, which a list of them may hold too."""
    word = pl.element()
    return pl.col("categories").list.eval(word.filter(~word.is_in(list(missing))))


def _check_rejected(raw: Raw, allowed: float, kept_aside: Path) -> None:
    for file, rows in raw.rows.items():
        rejected = raw.rejected.filter(pl.col("file") == file)
        if len(rejected) > allowed * rows:
            reasons = (
                rejected.group_by("reason")
                .agg(pl.len(), pl.col("row").min())
                .sort("len", "row", descending=[True, False])
            )
            counts = "; ".join(f"{reason}: {n} (first in row {row})" for reason, n, row in reasons.iter_rows())
            with atomic_path(kept_aside) as temporary:
                raw.rejected.write_parquet(temporary)
            raise UserError(
                f"{file}: {len(rejected)} of {rows} rows cannot be used, allowed are {allowed:.2%} "
                f"(max_rejected). {counts}; for example {rejected['raw'][0][:EXAMPLE]!r}. All of them are in "
                f"{kept_aside}. Mend the file, or a copy of it as a table of your own (kind: table), and read it "
                "anew (dvc repro -f download@NAME); or raise the limit to go on without them."
            )


def _write_tables(
    folder: Path, test: Path, items: pl.DataFrame, positives: Positives, data: DataSet, seed: int
) -> float | None:
    """All but the rejected rows. Returns the share of users whose test and validation item share a time stamp."""
    lengths, n_items = positives.lengths, len(positives.item_names)
    role = np.full(n_items, WARM, np.int8)
    if data.split == "cold_items":
        role = cold_roles(n_items, stream(seed, "cold items"))
    split = _split(positives, role, data)
    histories = positives.only(role == WARM)
    everyone = np.arange(len(lengths))
    fold = folds(len(lengths), stream(seed, "folds"))
    training, evaluated = (fold != data.fold, fold == data.fold) if data.fold != "none" else (fold >= 0, fold >= 0)
    train_end = np.where(training, positives.before(role == WARM, everyone, split.train_end), 0)
    if not evaluated.any():
        raise UserError(
            f"fold {data.fold} has no user: {len(lengths)} users in 5 folds. Use more users, or fold: none."
        )
    chosen = choose(np.flatnonzero(evaluated & (split.test >= 0)), data.test_users, seed)
    if not len(chosen):
        raise UserError(
            f"no user has a test list, which takes an earlier positive: {len(lengths)} users with "
            f"{len(positives.items)} positives of {n_items} items are left after the filters. Use more data, lower "
            "user_core or item_core, or look at source.columns"
        )
    if len(chosen) == 1:
        raise UserError("there is one test user, of whom no interval can be told: use more users, or fold: none")

    owner = histories.users()
    place = np.arange(len(owner)) - histories.offsets[owner]
    counts = np.bincount(histories.items[place < train_end[owner]], minlength=n_items)
    catalogue = Catalogue(role, counts, np.bincount(positives.items, minlength=n_items))
    _item_table(items, positives.item_names, catalogue).write_parquet(folder / "items.parquet")
    columns = {
        "user": pl.Series(everyone, dtype=pl.Int32),
        "user_id": pl.Series(positives.user_names, dtype=pl.String),
        "length": pl.Series(lengths, dtype=pl.Int32),
        "train_positives": pl.Series(train_end, dtype=pl.Int32),
        "fold": pl.Series(fold, dtype=pl.Int8),
    }
    pl.DataFrame(columns).write_parquet(folder / "users.parquet")
    tested = {
        "user": pl.Series(chosen, dtype=pl.Int32),
        "zero_shot": pl.Series(np.isin(chosen, choose(chosen, data.zero_shot_users, seed))),
        "touched": _touched(histories, chosen),
    }
    pl.DataFrame(tested).write_parquet(test / "users.parquet")
    _sequence_table(histories).write_parquet(folder / "sequences.parquet")

    learned, tests = (ListWriter(into, histories, catalogue, data, seed) for into in (folder, test))
    learned.train(train_end)
    for write, users, places in (
        (learned.val, choose(np.flatnonzero(evaluated & (split.val >= 0)), data.val_users, seed), split.val),
        (tests.test, chosen, split.test),
    ):
        position = positives.before(role == WARM, users, places[users])
        write(users, position, positives.at(users, places[users]))
    return _tied(positives, split)


def _touched(positives: Positives, users: np.ndarray) -> pl.Series:
    """The items of all interactions of each of `users`."""
    rows, items = positives.touched.by(users, None)
    counts = np.bincount(rows, minlength=len(users))
    return _lists(items.astype(np.int32), np.concatenate([[0], np.cumsum(counts)]))


def _lists(values: np.ndarray, offsets: np.ndarray) -> pl.Series:
    """List i is values[offsets[i] : offsets[i + 1]]. By way of polars, as pyarrow imports pandas for an array."""
    parts = (pl.Series(array).to_arrow() for array in (offsets, values))
    return pl.Series(pl.from_arrow(pa.LargeListArray.from_arrays(*parts)))


def _tied(positives: Positives, split: Split) -> float | None:
    """Share of the users with both whose test and validation item share a time stamp. None without time stamps."""
    users = np.flatnonzero((split.val >= 0) & (split.test >= 0))
    if positives.timestamps is None or not len(users):
        return None
    val, test = (positives.timestamps[positives.offsets[users] + places[users]] for places in (split.val, split.test))
    return float((val == test).mean())


def _split(positives: Positives, role: np.ndarray, data: DataSet) -> Split:
    if data.split == "leave_last_out":
        return leave_last_out(positives.lengths)
    if data.split == "cold_items":
        return cold_items(positives.items, positives.offsets, role)
    if positives.timestamps is None:
        raise UserError("split: global_time needs the time of every interaction, which this data set lacks")
    date = datetime.fromisoformat(str(data.test_from))
    cut = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    before = np.add.reduceat((positives.timestamps < cut).astype(np.int64), positives.offsets[:-1])
    split = global_time(positives.lengths, before)
    if not (split.test >= 0).any():
        first, last = (
            datetime.fromtimestamp(t, UTC).date() for t in (positives.timestamps.min(), positives.timestamps.max())
        )
        raise UserError(
            f"test_from: {data.test_from} leaves no test list, which takes a user with positives before and after "
            f"it; the positives are from {first} to {last}"
        )
    return split


def _with_text(items: pl.DataFrame, template: str, most: int, tokenizer: Path) -> tuple[pl.DataFrame, int]:
    """Items that have a title, with their text, which may be empty; and how many texts were cut at `most` tokens."""
    titled = items.filter(pl.col("title").is_not_null())
    texts = [fill(template, row) for row in titled.iter_rows(named=True)]
    had = _cut(texts, most, tokenizer)
    if had:
        place = max(had, key=lambda i: had[i])
        example = f"item {titled['item'][place]!r} had {had[place]}"
        say(f"{len(had)} texts are cut at {most} tokens of the teacher's tokenizer; {example} (max_tokens)")
    return titled.with_columns(pl.Series("text", texts, dtype=pl.String)), len(had)


def _cut(texts: list[str], most: int, tokenizer: Path) -> dict[int, int]:
    """Cuts those of more than `most` tokens; returns their places, and how many tokens each had. `tokenizer`: a file
    that is read where a text may be of so many: of ASCII none has more tokens than bytes and a mark of its beginning.
    Raises UserError where it lacks."""
    maybe = [i for i, text in enumerate(texts) if len(text) >= most or not text.isascii()]
    if not maybe:
        return {}
    if not tokenizer.is_file():
        raise UserError(f"{tokenizer}: no such file, to tell the tokens of long texts; run the stage download_teacher")
    from tokenizers import Tokenizer

    reader, had = Tokenizer.from_file(str(tokenizer)), {}
    reader.no_padding()  # the file may ask for both
    reader.no_truncation()
    reader.encode_special_tokens = True  # in a text their names are plain text
    for begin in range(0, len(maybe), AT_ONCE):
        places = maybe[begin : begin + AT_ONCE]
        found = reader.encode_batch([texts[i] for i in places], add_special_tokens=False)
        for i, offsets in ((i, one.offsets) for i, one in zip(places, found, strict=True)):
            if len(offsets) > most:
                had[i] = len(offsets)
                texts[i] = texts[i][: offsets[most][0]].rstrip()  # before the first letter that is not whole
    return had


def _empty_fields(items: pl.DataFrame, fields: Sequence[str]) -> Iterator[str]:
    for name in fields:
        held = items["categories"].list.len() > 0 if name == "categories" else items[name].is_not_null()
        if not held.any():
            yield f"warning: no item has a value of {{{name}}}, which item_text names: look at source.columns"


def _item_table(items: pl.DataFrame, item_names: np.ndarray, catalogue: Catalogue) -> pl.DataFrame:
    known = {"count": catalogue.count, "total": catalogue.total, "cold": ~catalogue.warm}
    order = pl.DataFrame({"item": item_names, **known})
    own = items.select("item", "title", "categories", "text")
    table = order.join(own, on="item", how="left", maintain_order="left").rename({"item": "item_id"})
    names = pl.Enum(table["categories"].explode().drop_nulls().unique().sort())  # stored as numbers
    return table.with_row_index("item").select(
        pl.col("item").cast(pl.Int32),
        "item_id",
        "title",
        pl.col("categories").cast(pl.List(names)),
        "text",
        pl.col("count", "total").cast(pl.Int32),
        "cold",
    )


def _sequence_table(histories: Positives) -> pl.DataFrame:
    users, times = len(histories.lengths), histories.timestamps
    columns = {
        "user": pl.Series(np.arange(users), dtype=pl.Int32),
        "items": _lists(histories.items.astype(np.int32), histories.offsets),
        "timestamps": pl.repeat(None, users, dtype=pl.List(pl.Int64), eager=True),
    }
    if times is not None:
        columns["timestamps"] = _lists(times, histories.offsets)
    return pl.DataFrame(columns)
