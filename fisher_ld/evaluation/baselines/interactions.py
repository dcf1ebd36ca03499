"""What rivals learn from: who liked what, up to each user's end of training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import scipy.sparse as sp

from fisher_ld.batches.lists import read_sequences


def interactions(sequences: list[np.ndarray], train_positives: np.ndarray, n_items: int) -> sp.csr_array:
    """Binary users x items matrix of the first `train_positives[u]` positives of each user u."""
    if len(sequences) != len(train_positives):
        raise ValueError(f"expected one cut-off a user, got {len(train_positives)} for {len(sequences)} users")
    kept = [items[:count] for items, count in zip(sequences, train_positives, strict=True)]
    users = np.repeat(np.arange(len(kept)), [len(items) for items in kept])
    items = np.concatenate(kept).astype(np.int64) if kept else np.empty(0, np.int64)
    matrix = sp.csr_array((np.ones(len(users), np.float32), (users, items)), shape=(len(kept), n_items))
    matrix.sum_duplicates()
    matrix.data[:] = 1
    return matrix


def read_interactions(processed: Path) -> sp.csr_array:
    """Every training positive of every user."""
    users = pl.read_parquet(processed / "users.parquet").sort("user")
    n_items = pl.read_parquet(processed / "items.parquet", columns=["item"]).height
    return interactions(read_sequences(processed), users["train_positives"].to_numpy(), n_items)
