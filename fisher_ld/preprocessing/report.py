"""The data report: what the filters left, what the lists hold, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

LISTS = ("train", "val", "test_popularity", "test_uniform")
QUANTILES = {"min": 0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}
RANKS = 200  # of the popularity curve, at most


def data_report(
    folder: Path, rejected: pl.DataFrame, rows: Mapping[str, int], steps: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """`folder`: what `preprocess` wrote. `rows`: rows of each raw file. `steps`: what each filter left."""
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    lists = {name: pl.read_parquet(folder / f"{name}.parquet", columns=["candidates"])["candidates"] for name in LISTS}
    before, after = steps[0], steps[-1]
    core = next(step for step in steps if step["step"] == "k-core")  # a sample of users is no loss
    reasons = rejected.group_by("file", "reason").len().sort("file", "reason")
    return {
        "filters": list(steps),
        "lost": {what: 1 - core[what] / before[what] for what in ("users", "items", "interactions")},
        "sparsity": {"before": _sparsity(before), "after": _sparsity(after)},
        "history_length": _quantiles(users["length"]),
        "histogram": _histogram(users["length"].to_numpy()),
        "train_positives": _quantiles(users["train_positives"]),
        "item_count": _quantiles(items["count"]),
        "popularity": _popularity(items["count"].to_numpy()),
        "items_without_train_positive": int((items["count"] == 0).sum()),
        "items_without_category": int((items["categories"].list.len() == 0).sum()),
        "items_that_share_a_text": int(items["text"].is_duplicated().sum()),
        "rows": dict(rows),
        "rejected": {
            "rows": len(rejected),
            "share": len(rejected) / sum(rows.values()),
            "by_reason": [dict(zip(("file", "reason", "rows"), row, strict=True)) for row in reasons.iter_rows()],
        },
        "lists": {name: len(candidates) for name, candidates in lists.items()},
        "examples": {name: int(candidates.list.len().sum()) for name, candidates in lists.items()},
        "folds": users["fold"].value_counts().sort("fold")["count"].to_list(),
    }


def _sparsity(step: Mapping[str, Any]) -> float:
    return 1 - step["interactions"] / (step["users"] * step["items"])


def _quantiles(values: pl.Series) -> dict[str, float]:
    array = values.to_numpy()
    quantiles = {name: float(np.quantile(array, q)) for name, q in QUANTILES.items()}
    return {"mean": float(array.mean()), **quantiles}


def _histogram(lengths: np.ndarray) -> dict[str, list[Any]]:
    """Users by number of positives, in bins of even width on a logarithmic scale."""
    edges = np.unique(np.round(np.geomspace(lengths.min(), lengths.max() + 1, 21))) - 0.5
    return {"edges": edges.tolist(), "users": np.histogram(lengths, edges)[0].tolist()}


def _popularity(counts: np.ndarray) -> dict[str, Any]:
    """Train positives of the items that have any, most popular first, at ranks even on a logarithmic scale; and the
    share of all train positives that the most popular tenth of all items has."""
    ranked = np.sort(counts)[::-1]
    rank = np.unique(np.round(np.geomspace(1, max(1, np.count_nonzero(ranked)), RANKS)).astype(int))
    head = ranked[: max(1, len(ranked) // 10)].sum() / max(ranked.sum(), 1)
    return {"rank": rank.tolist(), "count": ranked[rank - 1].tolist(), "top_tenth": float(head)}
