"""Raw files -> what every later stage reads: items, users, sequences, candidate lists, the template of the prompt."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime
from pathlib import Path
from string import Formatter
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.core.errors import UserError
from fisher_ld.core.files import atomic_path, write_json
from fisher_ld.core.locks import work_root
from fisher_ld.datasets.titles import fill
from fisher_ld.preprocessing.candidates import write_lists
from fisher_ld.preprocessing.filters import Positives, keep_positives
from fisher_ld.preprocessing.readers import Raw, read_source
from fisher_ld.preprocessing.report import data_report
from fisher_ld.preprocessing.splits import Split, choose, folds, global_time, leave_last_out, stream


def preprocess(raw_dir: Path, out_dir: Path, data: DataSet, seed: int) -> dict[str, Any]:
    """Writes the folder `out_dir`, all or nothing, and returns the data report. The same files, params and seed give
    the same values. Raises UserError for a missing or empty file, too many unreadable rows (they are then kept in
    `out_dir`.rejected.parquet, in the original repository), no users left, or lists that cannot be drawn."""
    fields = sorted({name for _, name, _, _ in Formatter().parse(data.item_text) if name})
    kept_aside = (work_root() / out_dir).with_name(f"{out_dir.name}.rejected.parquet")
    kept_aside.unlink(missing_ok=True)
    with atomic_path(out_dir) as folder:
        work = folder / "work"
        work.mkdir(parents=True)
        raw = read_source(raw_dir, data.source, work, fields)
        _check_rejected(raw, data.max_rejected, kept_aside)
        items = _with_text(raw.items, data.item_text)
        positives, steps = keep_positives(raw.interactions, items["item"], data, seed)
        shutil.rmtree(work)
        raw.rejected.write_parquet(folder / "rejected.parquet")
        write_json(folder / "prompt.json", data.prompt)
        _write_tables(folder, items, positives, data, seed)
        return data_report(folder, raw.rejected, raw.rows, steps)


def _check_rejected(raw: Raw, allowed: float, kept_aside: Path) -> None:
    for file, rows in raw.rows.items():
        rejected = raw.rejected.filter(pl.col("file") == file)
        if len(rejected) > allowed * rows:
            reasons = rejected.group_by("reason").agg(pl.len(), pl.col("row").min()).sort("len", descending=True)
            counts = "; ".join(f"{reason}: {n} (first in row {row})" for reason, n, row in reasons.iter_rows())
            with atomic_path(kept_aside) as temporary:
                raw.rejected.write_parquet(temporary)
            raise UserError(
                f"{file}: {len(rejected)} of {rows} rows cannot be used, allowed are {allowed:.2%} "
                f"(max_rejected). {counts}. All of them are in {kept_aside}. Mend the file, or raise the limit "
                "to go on without them."
            )


def _write_tables(folder: Path, items: pl.DataFrame, positives: Positives, data: DataSet, seed: int) -> None:
    lengths, n_items = positives.lengths, len(positives.item_names)
    split = _split(positives, data)
    fold = folds(len(lengths), stream(seed, "folds"))
    training, evaluated = (fold != data.fold, fold == data.fold) if data.fold != "none" else (fold >= 0, fold >= 0)
    chosen = choose(np.flatnonzero(evaluated & (split.test >= 0)), data.uniform_users, seed)

    users = np.repeat(np.arange(len(lengths)), lengths)
    place = np.arange(len(users)) - positives.offsets[users]
    in_train = (place < split.train_end[users]) & training[users]
    counts = np.bincount(positives.items[in_train], minlength=n_items)
    _item_table(items, positives.item_names, counts).write_parquet(folder / "items.parquet")
    columns = {
        "user": pl.Series(np.arange(len(lengths)), dtype=pl.Int32),
        "user_id": pl.Series(positives.user_names, dtype=pl.String),
        "length": pl.Series(lengths, dtype=pl.Int32),
        "train_positives": pl.Series(np.where(training, split.train_end, 0), dtype=pl.Int32),
        "fold": pl.Series(fold, dtype=pl.Int8),
        "zero_shot": pl.Series(np.isin(np.arange(len(lengths)), choose(chosen, data.zero_shot_users, seed))),
    }
    pl.DataFrame(columns).write_parquet(folder / "users.parquet")
    _sequence_table(positives).write_parquet(folder / "sequences.parquet")
    write_lists(folder, positives, split, training, evaluated, chosen, counts, data, seed)


def _split(positives: Positives, data: DataSet) -> Split:
    if data.split == "leave_last_out":
        return leave_last_out(positives.lengths)
    assert positives.timestamps is not None
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


def _with_text(items: pl.DataFrame, template: str) -> pl.DataFrame:
    """Items that have a title and a text. A model could not tell the others apart."""
    titled = items.filter(pl.col("title").is_not_null())
    texts = [fill(template, row) for row in titled.iter_rows(named=True)]
    return titled.with_columns(pl.Series("text", texts, dtype=pl.String)).filter(pl.col("text") != "")


def _item_table(items: pl.DataFrame, item_names: np.ndarray, counts: np.ndarray) -> pl.DataFrame:
    order = pl.DataFrame({"item": item_names, "count": counts})
    table = order.join(items, on="item", how="left", maintain_order="left").rename({"item": "item_id"})
    names = pl.Enum(table["categories"].explode().drop_nulls().unique().sort())  # stored as numbers
    return table.with_row_index("item").select(
        pl.col("item").cast(pl.Int32),
        "item_id",
        "title",
        pl.col("categories").cast(pl.List(names)),
        "text",
        pl.col("count").cast(pl.Int32),
    )


def _sequence_table(positives: Positives) -> pl.DataFrame:
    users, times = np.repeat(np.arange(len(positives.lengths)), positives.lengths), positives.timestamps
    schema = {"user": pl.Int32, "items": pl.Int32, "timestamps": pl.Int64}
    flat = pl.DataFrame({"user": users, "items": positives.items, "timestamps": times}, schema)
    lists = pl.col("timestamps") if times is not None else pl.lit(None, pl.List(pl.Int64)).alias("timestamps")
    return flat.group_by("user", maintain_order=True).agg("items", lists)
