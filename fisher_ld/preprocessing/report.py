"""The data report: what the filters left, what the lists hold, in numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from fisher_ld.config.params import DataSet
from fisher_ld.preprocessing.splits import training_lists, windows

QUANTILES = {"min": 0, "p10": 0.1, "p25": 0.25, "median": 0.5, "p75": 0.75, "p90": 0.9, "max": 1}
RANKS = 200  # of the popularity curve, at most
FAR = 0.02  # of NDCG@10 from chance, beyond which popularity is not matched


def data_report(
    folder: Path,
    test: Path,
    data: DataSet,
    rejected: pl.DataFrame,
    rows: Mapping[str, int],
    steps: Sequence[Mapping[str, Any]],
    tied: float | None,
) -> dict[str, Any]:
    """`folder` and `test`: what `preprocess` wrote of `data`. `rows`: rows of each raw file. `steps`: what each filter
    left. `tied`: share of the users whose test and validation item share a time stamp, None without time stamps."""
    users, items = pl.read_parquet(folder / "users.parquet"), pl.read_parquet(folder / "items.parquet")
    files = [*(folder / f"{name}.parquet" for name in ("labelled", "transfer", "val")), *sorted(test.glob("test_*"))]
    lists = {file.stem: pl.read_parquet(file) for file in files}
    places = zip(("user", "position", "start"), training_lists(users["train_positives"].to_numpy(), data), strict=True)
    parts = {"train": pl.DataFrame(dict(places)), **lists, "test": lists["test_matched"]}
    counted = {"all": _windows(parts["train"])} | {part: _windows(parts[part]) for part in ("labelled", "transfer")}
    count = items["count"].to_numpy()
    popularity = np.where(items["cold"], items["total"], count)  # as negatives are matched
    reasons = rejected.group_by("file", "reason").len().sort("file", "reason")
    return {
        "filters": list(steps),
        "lost": {what: _lost(steps, what) for what in ("users", "items", "interactions")},
        "sparsity": {"before": _sparsity(steps[0]), "after": _sparsity(steps[-1])},
        "history_length": _quantiles(users["length"]),
        "histogram": _histogram(users["length"].to_numpy()),
        "train_positives": _quantiles(users["train_positives"]),
        "item_count": _quantiles(items["count"]),
        "popularity": _popularity(count),
        "cold_items": int(items["cold"].sum()),
        "items_without_train_positive": int((items["count"] == 0).sum()),
        "items_without_category": int((items["categories"].list.len() == 0).sum()),
        "items_that_share_a_text": int(items["text"].is_duplicated().sum()),
        "rows": dict(rows),
        "rejected": {
            "rows": len(rejected),
            "share": len(rejected) / sum(rows.values()),
            "by_reason": [dict(zip(("file", "reason", "rows"), row, strict=True)) for row in reasons.iter_rows()],
        },
        "lists": {name: len(parts[name]) for name in ("train", *lists)},
        "examples": {name: int(part["candidates"].list.len().sum()) for name, part in lists.items()},
        "windows": counted,
        "read": {
            "teacher": counted["labelled"],
            "student": counted["labelled"] + counted["transfer"],
            "both": counted["labelled"],
        },
        "labels": {
            "train": len(lists["labelled"]),
            "likes": _likes(lists["labelled"]),
            "val": len(lists["val"]),
        },
        "mean_likes": {name: _mean_likes(parts[name]) for name in ("train", "labelled", "transfer", "val", "test")},
        "val_and_test_share_a_time": tied,
        "popularity_ndcg_10": {name: _popularity_ndcg(lists[name], popularity) for name in ("val", "test_matched")},
        "folds": users["fold"].value_counts().sort("fold")["count"].to_list(),
    }


def alike_lines(report: Mapping[str, Any]) -> Iterator[str]:
    if count := report["items_that_share_a_text"]:
        yield f"warning: {count} items share their text with another, which no model can tell apart: extend item_text"


def window_lines(report: Mapping[str, Any], data: DataSet) -> Iterator[str]:
    """A warning where there are fewer windows than were asked for."""
    for part, asked in (("labelled", data.labelled_windows), ("transfer", data.transfer_windows)):
        found = report["windows"][part]
        if asked is not None and found < asked:
            yield f"warning: {part}_windows: {asked} were asked for, of {report['windows']['all']} it has {found}"


def popularity_lines(report: Mapping[str, Any]) -> Iterator[str]:
    """What popularity scores on the matched lists, a line each, and a warning where that is far from chance."""
    for name, found in report["popularity_ndcg_10"].items():
        scorers = {"popularity": found["popularity"], "its inverse": found["inverse"]}
        scored = ", ".join(f"{scorer} {value:.3f}" for scorer, value in scorers.items())
        yield f"{name}: NDCG@10 of {scored}, chance {found['chance']:.3f}"
        if far := [scorer for scorer, value in scorers.items() if abs(value - found["chance"]) > FAR]:
            yield (
                f"warning: {name}: {' and '.join(far)} more than {FAR} from chance: the negatives do not match the "
                "positives' popularity, and a model may gain by popularity alone. Use more users or items, or lower "
                "eval_negatives."
            )


def _lost(steps: Sequence[Mapping[str, Any]], what: str) -> float:
    """Share that the filters dropped; a sample of users is no loss."""
    pairs = (pair for pair in pairwise(steps) if pair[1]["step"] != "max_users")
    return 1 - prod(after[what] / before[what] for before, after in pairs)


def _windows(lists: pl.DataFrame) -> int:
    return int(windows(*lists.select("user", "start").to_numpy().T)[-1]) + 1 if len(lists) else 0


def _likes(lists: pl.DataFrame) -> int:
    """How many likes these lists show, as positives or in histories, each once."""
    places = lists.select("user", place=pl.int_ranges("start", pl.col("position") + 1)).explode("place")
    return places.n_unique() if len(lists) else 0


def _mean_likes(lists: pl.DataFrame) -> float | None:
    """In the prompts of these lists; None where there are none."""
    return float((lists["position"] - lists["start"]).to_numpy().mean()) if len(lists) else None


def _popularity_ndcg(lists: pl.DataFrame, popularity: np.ndarray) -> dict[str, float]:
    """Mean NDCG@10 of lists of one size: of popularity as a score, of its inverse, and at chance. A tie counts as its
    expectation."""
    scores = popularity[np.stack(lists["candidates"].to_list())]  # (lists, candidates)
    own = np.take_along_axis(scores, lists["positive"].to_numpy()[:, None], axis=1)
    ranks = np.arange(1, scores.shape[1] + 1)
    gains = np.where(ranks <= 10, 1 / np.log2(ranks + 1), 0)
    upto = np.concatenate([[0], np.cumsum(gains)])

    def mean(better: np.ndarray) -> float:
        first, tied = better.sum(1), (scores == own).sum(1)
        return float(((upto[first + tied] - upto[first]) / tied).mean())

    return {"popularity": mean(scores > own), "inverse": mean(scores < own), "chance": float(gains.mean())}


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
