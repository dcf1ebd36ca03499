"""Algorithm 1, which the paper leaves out: the gradient norms of each example become rows of a table, from which every
later number comes.

The table is the model's part alone: logits and squared norms. Which Fisher is meant, and what weights follow, is
decided where the table is read (`profile`, `weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import chain
from typing import NamedTuple

import numpy as np
import polars as pl
import torch

from fisher_ld.batches.prompts import Prompts, check_context
from fisher_ld.core import ranks
from fisher_ld.core.progress import progress
from fisher_ld.fisher.coverage import Covered, cover, mean_squares, parameter_counts
from fisher_ld.fisher.gradient_norms import Squares, gradient_norms, pad_prompts
from fisher_ld.fisher.profile import Kind, factor
from fisher_ld.fisher.sample import Sample
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.sharded import is_sharded

ONLINE = 8  # examples of which the teacher's trace is taken for one update of Eq. 9

SCHEMA = pl.Schema(
    {
        "state": pl.String,
        "source": pl.String,  # transfer or labelled
        "list": pl.Int64,  # of its source
        "example": pl.Int64,  # of its source
        "label": pl.Int8,  # null where it is not to be known
        "logit": pl.Float64,
        "layer": pl.Int16,  # 0 embedding, 1..L, L + 1 head
        "gradient_norm": pl.Float64,  # ||dz/dtheta_l||^2
        "normalisation_part": pl.Float64,  # what normalisation parameters hold of it
        "list_norm": pl.Float64,  # ||sum_c p_c dz_c/dtheta_l||^2 over the list; null where an example was drawn alone
        "list_normalisation_part": pl.Float64,
        "sensitivity": pl.Float64,  # ||dz/dh_l||^2 rms(h_l)^2 at the decision token; null for embedding and head
        "attention": pl.Float64,  # KL of the decision token's attention from uniform; null likewise, and if `eager`
        "parameters": pl.Int64,
        "mean_square": pl.Float64,  # of the layer's parameters
    }
)


class Row(NamedTuple):
    """One example; lists are over the columns 0..L + 1."""

    example: int
    logit: float
    gradient_norm: list[float]
    normalisation_part: list[float]
    list_norm: list[float | None]
    list_normalisation_part: list[float | None]
    sensitivity: list[float | None]
    attention: list[float | None]


def estimate(
    scorer: Scorer,
    prompts: Prompts,
    sample: Sample,
    state: str,
    batch_size: int,
    checkpointing: bool = False,
) -> pl.DataFrame:
    """The table (`SCHEMA`) of the scorer's gradient norms, one row for each example and layer, in batches of about
    `batch_size` prompts. Each rank takes its share, and all get the whole table, or the error of the first rank that
    has one."""
    columns = len(scorer.layers) + 2
    covered = cover(scorer.model)
    of_each = {
        "layer": list(range(columns)),
        "parameters": parameter_counts(covered, columns),
        "mean_square": mean_squares(covered, columns),
    }
    label = f"Fisher traces, {state}, {sample.source}"
    prompt = partial(prompts.example, sample.lists)
    compute = partial(_rows, scorer, prompt, sample.examples, label, batch_size, checkpointing, covered)
    # the ranks of a divided model wait for each other within it, where no error could be told
    found = ranks.gather(compute()) if is_sharded(scorer) else ranks.together(compute)
    return _table(list(chain(*found)), sample, state, of_each)


def online_trace(
    scorer: Scorer,
    prompt: Callable[[int], Sequence[int]],
    labels: np.ndarray,
    kind: Kind,
    checkpointing: bool,
    examples: np.ndarray,
) -> torch.Tensor:
    """tr(F_l) (L,) of a scorer on the first ONLINE of the examples, for the teacher's side of Eq. 9. `prompt` gives the
    token ids of an example; `labels`, by example id, are needed for the kind `label` alone, which passes over examples
    without one.
    Examples are no whole lists, so that the kind `list` takes the trace of `model`.

    Raises ValueError for the kind `label` where no example has a label."""
    if kind == "label":
        examples = examples[~np.isnan(labels[examples])]
    examples = examples[:ONLINE]
    if not len(examples):
        raise ValueError("expected examples with labels for the Fisher of the data's labels, got none")
    batch = pad_prompts([prompt(int(example)) for example in examples]).to(scorer.model.device)
    norms = gradient_norms(scorer, batch, checkpointing=checkpointing)
    of_each = factor(norms.logits.cpu().numpy(), labels[examples], "label" if kind == "label" else "model")  # (N,)
    return torch.from_numpy(of_each) @ norms.layers.cpu() / len(examples)


def _rows(
    scorer: Scorer,
    prompt: Callable[[int], Sequence[int]],
    examples: np.ndarray,
    label: str,
    batch_size: int,
    checkpointing: bool,
    covered: list[Covered],
) -> list[Row]:
    """This rank's share of examples (S,) or (M, C)."""
    candidates = examples.shape[1] if examples.ndim == 2 else None
    prompts = {int(example): prompt(int(example)) for example in examples.flat}
    check_context(max(map(len, prompts.values())), scorer.model.config.max_position_embeddings)
    lists = examples.reshape(len(examples), -1).tolist()
    by_length = sorted(lists, key=lambda entry: (max(len(prompts[example]) for example in entry), entry))
    shared = ranks.share(by_length)
    each = max(1, batch_size // (candidates or 1))
    own = [entry for entry, _ in shared]
    batches = [list(chain(*own[i : i + each])) for i in range(0, len(own), each)]
    rows: list[Row] = []
    for batch in progress(batches, label, unit="batch"):
        padded = pad_prompts([prompts[example] for example in batch]).to(scorer.model.device)
        found = gradient_norms(scorer, padded, checkpointing=checkpointing, covered=covered, candidates=candidates)
        norms, parts = _columns(found)
        nothing = [[None] * len(norms[0])] * len(batch)
        of_lists = [_of_candidates(x, candidates) for x in _columns(found.lists)] if found.lists else [nothing] * 2
        of_layers = [
            nothing if values is None else [[None, *row, None] for row in values.tolist()]
            for values in (found.sensitivity, found.attention)
        ]
        rows += map(Row, batch, found.logits.tolist(), norms, parts, *of_lists, *of_layers)
    return rows[: sum(len(entry) for entry, counts in shared if counts)]


def _columns(squares: Squares) -> tuple[list[list[float]], list[list[float]]]:
    """All parameters' and the normalisations', by the columns 0..L + 1."""
    every = torch.cat([squares.embedding[:, None], squares.layers, squares.head[:, None]], 1)  # (n, L + 2)
    return every.tolist(), torch.nn.functional.pad(squares.normalisation, (1, 1)).tolist()


def _of_candidates(values: list[list[float]], candidates: int | None) -> list[list[float]]:
    """Those of a list, for each of its candidates."""
    return [row for row in values for _ in range(candidates or 1)]


def _table(rows: list[Row], sample: Sample, state: str, of_each: dict[str, list]) -> pl.DataFrame:
    nested = [name for name in Row._fields if name not in ("example", "logit")]
    schema = {name: pl.List(pl.Float64) if name in nested else SCHEMA[name] for name in Row._fields}
    table = pl.DataFrame(sorted(rows, key=lambda row: row.example), schema=schema, orient="row")
    table = table.with_columns(*(pl.lit(values).alias(name) for name, values in of_each.items()))
    example = table["example"].to_numpy()
    table = table.with_columns(
        state=pl.lit(state),
        source=pl.lit(sample.source),
        list=np.searchsorted(sample.lists.offsets, example, side="right") - 1,
        label=pl.Series(sample.lists.labels()[example]).fill_nan(None),
    )
    return table.explode(*nested, *of_each).select(*SCHEMA).cast(SCHEMA)
