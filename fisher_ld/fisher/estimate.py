"""Fisher samples: examples are drawn, and the gradient norms of each become rows of a table, from which every later
number comes.

The table is the model's part alone: the logit and ||dz/dtheta||^2 of each example. Which Fisher is meant, and what
weights follow, is decided where the table is read (`profile`, `weights`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import polars as pl
import torch
from torch import distributed

from fisher_ld.batches.prompts import check_context
from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import progress
from fisher_ld.fisher.coverage import Covered, cover, parameter_counts
from fisher_ld.fisher.gradient_norms import gradient_norms, pad_prompts
from fisher_ld.fisher.profile import KINDS, Kind, layer_traces
from fisher_ld.models.scorer import Scorer

ROUND = 64  # examples between two looks at the standard errors

Row = tuple[
    int, float, list[float], list[float]
]  # example, z, squares of the columns 0..L + 1, and the normalisations' part

SCHEMA = pl.Schema(
    {
        "state": pl.String,
        "example": pl.Int64,
        "label": pl.Int8,
        "logit": pl.Float64,
        "layer": pl.Int16,  # 0 embedding, 1..L, L + 1 head
        "gradient_norm": pl.Float64,  # ||dz/dtheta_l||^2
        "normalisation_part": pl.Float64,  # what normalisation parameters hold of it
        "parameters": pl.Int64,
    }
)


def draw_examples(examples: int, samples: int, seed: int) -> np.ndarray:
    """At most `samples` different example ids, in the order in which they are to be used."""
    return np.random.default_rng(seed).permutation(examples)[:samples]


def estimate(
    scorer: Scorer,
    prompt: Callable[[int], Sequence[int]],
    labels: np.ndarray,
    examples: np.ndarray,
    state: str,
    batch_size: int,
    tolerance: float = 0.0,
    checkpointing: bool = False,
) -> pl.DataFrame:
    """The table (`SCHEMA`) of the scorer's gradient norms, one row for each example and layer.

    `prompt` gives the token ids of an example, `labels` is indexed by example id. With a tolerance, examples are taken
    in rounds until the standard error of every layer's weight (its share of the trace) is at most that, under the
    true and the empirical Fisher; tolerance 0 takes them all. Where torch.distributed is initialised each rank takes
    its share of a round, and all get the whole table, or the error of the first rank that has one.
    """
    if not len(examples):
        raise UserError("no examples for Fisher traces: the train lists are empty; look at metrics/preprocess.json")
    columns = len(scorer.layers) + 2
    covered = cover(scorer.model)
    of_each = {"layer": list(range(columns)), "parameters": parameter_counts(covered, columns)}
    size = ROUND if tolerance else len(examples)
    rounds = []
    for first in range(0, len(examples), size):
        chosen = examples[first : first + size]
        label = f"Fisher traces, {state}"
        rows = _gather(partial(_rows, scorer, prompt, chosen, label, batch_size, checkpointing, covered))
        rounds.append(_table(rows, labels, state, of_each))
        if tolerance and largest_share_error(pl.concat(rounds)) <= tolerance:
            break
    else:
        if tolerance:
            error = largest_share_error(pl.concat(rounds))
            print(
                f"{state}: the weights' largest standard error is {error:.2g} after all {len(examples)} examples, "
                f"above fisher.tolerance {tolerance:g}; raise fisher.samples to reach it"
            )
    return pl.concat(rounds)


def online_trace(
    scorer: Scorer,
    prompt: Callable[[int], Sequence[int]],
    labels: np.ndarray,
    kind: Kind,
    checkpointing: bool,
    examples: np.ndarray,
) -> torch.Tensor:
    """tr(F_l) (L,) of a scorer on some examples."""
    table = estimate(scorer, prompt, labels, examples, "online", len(examples), checkpointing=checkpointing)
    return torch.from_numpy(layer_traces(table, kind).trace)


def largest_share_error(table: pl.DataFrame) -> float:
    """The largest standard error of a layer's weight, under either Fisher."""
    return max(float(layer_traces(table, kind).share_error.max()) for kind in KINDS)


def _rows(
    scorer: Scorer,
    prompt: Callable[[int], Sequence[int]],
    examples: np.ndarray,
    label: str,
    batch_size: int,
    checkpointing: bool,
    covered: list[Covered],
) -> list[Row]:
    """This rank's share: example id, z, and the columns 0..L + 1 of all and of the normalisation parameters."""
    prompts = {int(example): prompt(int(example)) for example in examples}
    check_context(max(map(len, prompts.values())), scorer.model.config.max_position_embeddings)
    by_length = sorted(prompts, key=lambda example: (len(prompts[example]), example))
    if distributed.is_initialized():
        by_length = by_length[distributed.get_rank() :: distributed.get_world_size()]
    batches = [by_length[i : i + batch_size] for i in range(0, len(by_length), batch_size)]
    rows = []
    for batch in progress(batches, label, unit="batch"):
        padded = pad_prompts([prompts[example] for example in batch]).to(scorer.model.device)
        result = gradient_norms(scorer, padded, checkpointing=checkpointing, covered=covered)
        nothing = torch.zeros_like(result.embedding)[:, None]
        squares = torch.cat([result.embedding[:, None], result.layers, result.head[:, None]], 1)  # (N, L + 2)
        normalisation_part = torch.cat([nothing, result.normalisation, nothing], 1)  # (N, L + 2)
        rows += zip(batch, result.logits.tolist(), squares.tolist(), normalisation_part.tolist(), strict=True)
    return rows


def _table(rows: list[Row], labels: np.ndarray, state: str, of_each: dict[str, list[int]]) -> pl.DataFrame:
    example, logit, squares, normalisation_part = zip(*sorted(rows), strict=True)
    columns = {"example": example, "logit": logit, "gradient_norm": squares, "normalisation_part": normalisation_part}
    columns |= {name: [values] * len(rows) for name, values in of_each.items()}
    frame = pl.DataFrame(columns).explode("gradient_norm", "normalisation_part", *of_each)
    return frame.with_columns(state=pl.lit(state), label=labels[frame["example"]]).select(*SCHEMA).cast(SCHEMA)


def _gather(compute: Callable[[], list[Row]]) -> list[Row]:
    """The rows of all ranks. An error of one is raised by all: the others would wait for it forever."""
    if not distributed.is_initialized():
        return compute()
    rows: list[Row] | Exception
    try:
        rows = compute()
    except Exception as error:
        rows = error
    parts: list[list[Row] | Exception] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(parts, rows)
    gathered: list[Row] = []
    for part in parts:
        if isinstance(part, Exception):
            raise part
        gathered += part
    return gathered
