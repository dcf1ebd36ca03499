"""The last transformer layer at the decision tokens alone: nothing reads what it gives at the others."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress

import torch
from torch import nn
from torch.nn.attention.flex_attention import BlockMask

from fisher_ld.core.errors import ANOTHER, UserError
from fisher_ld.kernels.flex import seen_by

_NO_CACHE = (
    "{} does not hand its keys and values to transformers' cache, so that it cannot be run at the decision tokens "
    f"alone; {ANOTHER}"
)


class _Complete(Exception):
    """The keys and values of all tokens are there."""


class _KeysValues:
    """Stands where transformers passes its cache: takes the keys and values of all tokens, and gives them to the
    queries of the decision tokens, as generation does with those of earlier tokens."""

    of_all_tokens: tuple[torch.Tensor, torch.Tensor] | None = None

    def update(self, key: torch.Tensor, value: torch.Tensor, *details) -> tuple[torch.Tensor, torch.Tensor]:
        if self.of_all_tokens is None:
            self.of_all_tokens = key, value
            if not torch.compiler.is_exporting():  # a graph leaves out by itself what nothing reads
                raise _Complete
        return self.of_all_tokens


def slots(row: torch.Tensor) -> torch.Tensor:
    """Of decision tokens, ordered by `row` (N,), which one of its row each is: (N,)."""
    count = torch.bincount(row)
    return torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]


def only_at_decisions(layer: nn.Module, decision: torch.Tensor) -> AbstractContextManager[None]:
    """Within it `layer`, (B, T, d) -> (B, T, d), attends, projects and runs its MLP only at `decision` (N, 2), rows
    and columns ordered by row, exactly as it would in full; its output is zero elsewhere. Raises UserError for a layer
    that does not take transformers' cache."""
    row, column = decision.unbind(1)
    count, slot = torch.bincount(row), slots(row)  # (B,), (N,)
    columns = column.new_zeros(len(count), int(count.max()))  # (B, n), the first token where a row has fewer
    columns[row, slot] = column
    return _only_at(layer, columns, row, column, slot)


def only_at_columns(layer: nn.Module, columns: torch.Tensor) -> AbstractContextManager[None]:
    """The same at `columns` (B, n) of each row, which may repeat: for shapes that are not known yet."""
    row = torch.arange(columns.shape[0], device=columns.device)[:, None]  # (B, 1)
    return _only_at(layer, columns, row, columns, torch.arange(columns.shape[1], device=columns.device))


@contextmanager
def _only_at(
    layer: nn.Module, columns: torch.Tensor, row: torch.Tensor, column: torch.Tensor, slot: torch.Tensor
) -> Iterator[None]:
    """Only at `columns` (B, n); `slot` of each row becomes the output at `row` and `column`."""
    name = type(layer).__name__
    signature = inspect.signature(layer.forward)
    takes_cache = [key for key in ("past_key_values", "layer_past") if key in signature.parameters]
    if not takes_cache:
        raise UserError(_NO_CACHE.format(name))
    rows = torch.arange(columns.shape[0], device=columns.device)[:, None]  # (B, 1)
    shape: list[torch.Size] = []

    def narrow(module, args, kwargs):
        given = dict(signature.bind(*args, **kwargs).arguments)
        given |= given.pop("kwargs", {})
        given[takes_cache[0]] = cache = _KeysValues()
        with suppress(_Complete):
            module.forward(**given)
        if cache.of_all_tokens is None:
            raise UserError(_NO_CACHE.format(name))
        hidden = given["hidden_states"]
        shape.append(hidden.shape)
        given["hidden_states"] = hidden[rows, columns]  # (B, n, d)
        mask = given["attention_mask"]  # (B, 1, T, T), or None where attention is plainly causal
        if mask is None:
            seen = torch.arange(hidden.shape[1], device=columns.device) <= columns[..., None]  # (B, n, T)
        else:
            seen = seen_by(mask, rows, columns) if isinstance(mask, BlockMask) else mask[rows, 0, columns]
        given["attention_mask"] = seen[:, None]  # (B, 1, n, T)
        if given.get("position_ids") is not None:
            given["position_ids"] = given["position_ids"][rows, columns]  # (B, n)
        if given.get("position_embeddings") is not None:  # rotary cosines and sines
            given["position_embeddings"] = tuple(part[rows, columns] for part in given["position_embeddings"])
        return (), given

    def widen(module, inputs, output):
        hidden = output[0] if isinstance(output, tuple) else output  # (B, n, d)
        whole = hidden.new_zeros(shape.pop())
        whole[row, column] = hidden[row, slot]
        return (whole, *output[1:]) if isinstance(output, tuple) else whole

    with layer.register_forward_pre_hook(narrow, with_kwargs=True), layer.register_forward_hook(widen):
        yield
