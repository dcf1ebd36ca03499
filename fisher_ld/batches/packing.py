"""Shared-prefix packing: candidates that share a user's history share one sequence.

A packed row is a trunk (prefix and history, plain causal) and one segment for each candidate. A segment sees the
trunk up to its own place in the history, and itself; its positions go on from there. Every candidate's decision token
therefore has exactly the context of its own one-by-one prompt.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fisher_ld.batches.lists import COLUMNS, Lists, make_lists
from fisher_ld.batches.prompts import Prompts, check_context
from fisher_ld.core.errors import UserError

if TYPE_CHECKING:
    import torch

Array = Any  # of NumPy as packed, of PyTorch after `to`: what is served by another runtime does without PyTorch
LARGEST = 512  # tokens of candidates in one row: longer windows are cut, for attention grows with the square
POOL = 64  # batches that are sorted by length together
MULTIPLE = 32  # of tokens in a row: matrix kernels are made anew for each length, and fast at even ones


@dataclass(frozen=True)
class PackedBatch:
    """B packed rows of T tokens that hold N candidates (examples) of some lists."""

    input_ids: Array  # (B, T)
    position_ids: Array  # (B, T)
    segment: Array  # (B, T) 0: trunk; 1..: which candidate; -1: padding
    visible: Array  # (B, T) how many trunk tokens a token may see
    decision: Array  # (N, 2) row and column of each decision token
    examples: Array  # (N,) example ids
    labels: Array  # (N,) float, nan where a label is not to be known
    list_of: Array  # (N,) which of the lists, 0.. in the order of the examples
    tokens: int  # without padding

    @property
    def mask(self) -> torch.Tensor:
        """(B, 1, T, T) bool, True: may attend."""
        return mask_of(self.segment, self.visible)

    def to(self, device: torch.device | str) -> PackedBatch:
        """In tensors there."""
        import torch

        moved: Any = {k: v if k == "tokens" else torch.as_tensor(v, device=device) for k, v in vars(self).items()}
        return PackedBatch(**moved)


def mask_of(segment: torch.Tensor, visible: torch.Tensor) -> torch.Tensor:
    """The mask of a PackedBatch."""
    import torch

    row, place = (torch.arange(size, device=segment.device) for size in segment.shape)
    return sees(segment, visible, row[:, None, None], place[:, None], place)[:, None]


def sees(segment: Any, visible: Any, row: Any, query: Any, key: Any) -> Any:
    """Whether in packed rows the tokens `query` may attend to the tokens `key`. segment, visible: those of a
    PackedBatch; the others are indices that broadcast."""
    of_key = segment[row, key]
    in_trunk = (of_key == 0) & (key < visible[row, query])
    in_own = (of_key > 0) & (of_key == segment[row, query]) & (key <= query)
    return in_trunk | in_own


@dataclass
class _Row:
    ids: list[int]
    positions: list[int]
    segment: list[int]  # 0: trunk
    visible: list[int]  # how many trunk tokens a token may see
    decision: list[int]


def _longest_history(window: np.ndarray, lists: Lists) -> np.ndarray:
    return lists.history(window[lists.position[window].argmax()])


def _pack_row(lists: Lists, window: np.ndarray, prompts: Prompts) -> _Row:
    start = int(lists.start[window[0]])
    trunk = list(prompts.prefix)
    trunk_length = {start: len(trunk)}
    for place, item in enumerate(_longest_history(window, lists), start):
        trunk += prompts.history[item]
        trunk_length[place + 1] = len(trunk)

    row = _Row(trunk, list(range(len(trunk))), [0] * len(trunk), list(range(1, len(trunk) + 1)), [])
    segment = 0
    for index in window:
        visible = trunk_length[int(lists.position[index])]
        for item in lists.candidates[index]:
            piece = prompts.candidate[item]
            if not piece:
                raise UserError(
                    "a candidate has no token, so that nothing could be asked of it: its text is empty, or of letters "
                    "that the tokenizer leaves out; a template such as '{text}?' (data.prompt.candidate) always has one"
                )
            segment += 1
            row.ids += piece
            row.positions += range(visible, visible + len(piece))
            row.segment += [segment] * len(piece)
            row.visible += [visible] * len(piece)
            row.decision.append(len(row.ids) - 1)
    return row


def pack(lists: Lists, windows: list[np.ndarray], prompts: Prompts, context: int) -> PackedBatch:
    """`pack_rows` in tensors, of a length that kernels like."""
    return pack_rows(lists, windows, prompts, context, MULTIPLE).to("cpu")


def pack_rows(
    lists: Lists, windows: list[np.ndarray], prompts: Prompts, context: int, multiple: int = 1
) -> PackedBatch:
    """One row for each window (list numbers of one user with one history start; a window of one list is the usual
    one-sequence-per-list packing), padded to a `multiple` of tokens. Raises UserError where a prompt is longer than
    the teacher's `context`."""
    rows = [_pack_row(lists, window, prompts) for window in windows]
    check_context(max(max(row.positions) + 1 for row in rows), context)
    length = -(-max(len(row.ids) for row in rows) // multiple) * multiple

    def padded(values: list[list[int]], fill: int) -> np.ndarray:
        return np.array([v + [fill] * (length - len(v)) for v in values])  # (B, T)

    numbers = np.concatenate(windows)
    return PackedBatch(
        input_ids=padded([row.ids for row in rows], 0),
        position_ids=padded([row.positions for row in rows], 0),
        segment=padded([row.segment for row in rows], -1),
        visible=padded([row.visible for row in rows], 1),  # padding sees the first token: no empty softmax
        decision=np.array([(b, t) for b, row in enumerate(rows) for t in row.decision]),
        examples=lists.examples(numbers),
        labels=lists.labels(numbers),
        list_of=np.repeat(np.arange(len(numbers)), np.diff(lists.offsets)[numbers]),
        tokens=sum(len(row.ids) for row in rows),
    )


def parts(lists: Lists, windows: list[np.ndarray], count: int) -> list[list[np.ndarray]]:
    """The windows in `count` parts of about as many candidates, in their order: where a part ends within a window, each
    takes some of its lists. Raises ValueError where there are fewer lists."""
    numbers = np.concatenate(windows)
    if len(numbers) < count:
        raise ValueError(f"expected lists for {count} parts, got {len(numbers)}")
    sizes = np.diff(lists.offsets)[numbers]
    of_list = ((np.cumsum(sizes) - sizes / 2) * count / sizes.sum()).astype(int)
    if len(np.unique(of_list)) < count:  # one list has more than a part's share
        of_list = np.arange(len(numbers)) * count // len(numbers)
    of_window = np.repeat(np.arange(len(windows)), [len(window) for window in windows])
    cuts = np.flatnonzero(np.diff(of_window * count + of_list)) + 1
    found: list[list[np.ndarray]] = [[] for _ in range(count)]
    for first, piece in zip([0, *cuts], np.split(numbers, cuts), strict=True):
        found[of_list[first]].append(piece)
    return found


def row_tokens(window: np.ndarray, lists: Lists, prompts: Prompts) -> int:
    """Tokens of a window's packed row, but for the prefix."""
    history = _longest_history(window, lists)
    candidates = np.concatenate([lists.candidates[i] for i in window])
    return sum(len(prompts.history[i]) for i in history) + sum(len(prompts.candidate[i]) for i in candidates)


def longest_first(lists: Lists, prompts: Prompts, size: int, largest: int = LARGEST) -> list[list[np.ndarray]]:
    """All windows in groups of `size` of like length, for little padding. A window with candidates of more than
    `largest` tokens is cut between its lists."""
    cost = np.array([len(piece) for piece in prompts.candidate])
    windows = []
    for window in lists.windows():
        windows += _cut(window, np.array([cost[lists.candidates[i]].sum() for i in window]), largest)
    windows.sort(key=lambda window: -row_tokens(window, lists, prompts))
    return [windows[i : i + size] for i in range(0, len(windows), size)]


def in_pieces(lists: Lists, prompts: Prompts, largest: int = LARGEST) -> Lists:
    """The same examples in the same order, in lists none of which has candidates of more than `largest` tokens: to be
    scored alone, for a piece has no positive."""
    cost = np.array([len(piece) for piece in prompts.candidate])
    numbers: list[int] = []
    candidates: list[np.ndarray] = []
    for number, items in enumerate(lists.candidates):
        pieces = _cut(items, cost[items], largest)
        numbers += [number] * len(pieces)
        candidates += pieces
    columns = {name: getattr(lists, name)[numbers] for name in COLUMNS} | {"positive": np.full(len(numbers), -1)}
    return make_lists(columns, candidates, lists.sequences)


def _cut(values: np.ndarray, cost: np.ndarray, largest: int) -> list[np.ndarray]:
    """`values` in consecutive parts of at most `largest` `cost`; more only where a single value has it."""
    cuts, filled = [], 0
    for place, each in enumerate(cost.tolist() if cost.sum() > largest else ()):
        if filled and filled + each > largest:
            cuts.append(place)
            filled = 0
        filled += each
    return np.split(values, cuts)


def step_plan(
    lists: Lists, windows: list[np.ndarray], prompts: Prompts, size: int, steps: int, seed: int
) -> list[list[np.ndarray]]:
    """Those of `windows` that each of `steps` optimiser steps reads: as many epochs as that takes, each shuffled
    anew. Raises ValueError where there are none."""
    if not windows:
        raise ValueError(f"expected windows to plan {steps} steps of, got none")
    plan: list[list[np.ndarray]] = []
    length = np.array([row_tokens(window, lists, prompts) for window in windows])
    while len(plan) < steps:
        plan += by_length(windows, length, size, seed + len(plan))
    return plan[:steps]


def by_length(windows: list[np.ndarray], length: np.ndarray, size: int, seed: int) -> list[list[np.ndarray]]:
    """Seeded batches of `size` windows. Windows of like `length` share a batch, for little padding: each pool of
    POOL shuffled batches is sorted by length, then its batches are shuffled."""
    rng = np.random.default_rng(seed)
    shuffled = rng.permutation(len(windows))
    plan = []
    for begin in range(0, len(shuffled), POOL * size):
        chunk = shuffled[begin : begin + POOL * size]
        chunk = chunk[np.argsort(length[chunk], kind="stable")]
        cuts = [chunk[i : i + size] for i in range(0, len(chunk), size)]
        plan += [[windows[i] for i in cuts[k]] for k in rng.permutation(len(cuts))]
    return plan
