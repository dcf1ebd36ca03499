"""A batch in parts: ranks share it, and each computes its share in pieces, one after the other, for less memory. A loss
is then what it would be in one piece on one rank, whatever it is a mean over, and terms that only some parts hold need
no care."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn.functional import pad

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import PackedBatch, parts
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core import ranks
from fisher_ld.models.scorer import Scored, Scorer
from fisher_ld.models.sharded import is_sharded

Score = Callable[[PackedBatch], Scored]


def division(lists: int, pieces: int) -> tuple[int, int]:
    """How many ranks share so many lists, and in how many pieces each computes its share: a piece holds whole lists.
    Where there are fewer lists than ranks, each rank does all of them."""
    sharing = ranks.world() if lists >= ranks.world() else 1
    return sharing, min(pieces, lists // sharing)


def score_together(
    scorer: Scorer, lists: Lists, windows: list[np.ndarray], prompts: Prompts, score: Score, pieces: int = 1
) -> tuple[Scored, PackedBatch]:
    """What `score` gives for the windows, packed, and of the batch what a loss needs. Where ranks share it, the
    gradient that a loss has on one of them is its part's times the number of ranks: their mean is the gradient of the
    batch. Of several pieces one at a time has activations: those of the last are kept for the backward pass, which
    begins there, the others computed a second time. `score` is called in the backward pass too."""
    sharing, pieces = division(sum(map(len, windows)), pieces)
    if sharing * pieces == 1:
        batch = scorer.pack(lists, windows, prompts)
        return score(batch), batch
    divided = parts(lists, windows, sharing * pieces)
    first = pieces * ranks.rank() if sharing > 1 else 0
    own = [scorer.pack(lists, part, prompts) for part in divided[first : first + pieces]]
    candidates, numbers = np.diff(lists.offsets), np.concatenate(windows)
    sizes = np.array([candidates[np.concatenate(part)].sum() for part in divided]).reshape(sharing, pieces).sum(1)
    again = pieces if pieces > 1 and is_sharded(scorer) else pieces - 1  # a layer's gradient is shared after each piece
    share = _Share(score, own, again, sizes.tolist())
    list_of, device = np.repeat(np.arange(len(numbers)), candidates[numbers]), own[0].labels.device
    whole = replace(
        own[0],
        examples=torch.from_numpy(lists.examples(numbers)).to(device),
        labels=torch.from_numpy(lists.labels(numbers)).to(device),
        list_of=torch.from_numpy(list_of).to(device),
        tokens=sum(part.tokens for part in own) * sharing,
    )
    return share.scored(), whole


@dataclass(frozen=True)
class _Share:
    """What of a batch this rank computes."""

    score: Score
    pieces: Sequence[PackedBatch]
    again: int  # how many of the pieces, the first ones, are computed again in the backward pass
    sizes: Sequence[int]  # candidates of each rank's share

    def scored(self) -> SharedScored:
        """The whole batch."""
        first, last = self.pieces[: self.again], self.pieces[self.again :]
        found = [*(_computed_again(self.score, piece) for piece in first), *map(self.score, last)]
        logits = self.joined([piece.logits for piece in found])
        states = [piece.states for piece in found if piece.states is not None]
        said = self.attention([piece.attention for piece in found])
        return SharedScored(logits, self.joined(states) if states else None, attention=said, share=self, own=found)

    def joined(self, rows: Sequence[torch.Tensor]) -> torch.Tensor:
        """Those (n, ...) of each piece -> those of the batch (N, ...)."""
        own = torch.cat(list(rows))
        return gather_rows(own, self.sizes) if len(self.sizes) > 1 else own

    def attention(self, found: Sequence[Mapping[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        """What it says in each piece, whose prompts have different lengths -> in the batch."""
        if not found[0]:
            return {}
        longest = max(piece["present"].shape[-1] for piece in found)
        longest = max(ranks.gather(longest)) if len(self.sizes) > 1 else longest

        def widened(values: torch.Tensor) -> torch.Tensor:
            return pad(values, (0, longest - values.shape[-1]))

        return {name: self.joined([widened(piece[name]) for piece in found]) for name in found[0]}


@dataclass(frozen=True)
class SharedScored(Scored):
    """All parts of a batch; `own` are this rank's pieces."""

    share: _Share | None = None
    own: Sequence[Scored] = ()

    def sensitivity(self, batch: PackedBatch) -> torch.Tensor:
        assert self.share
        found = []
        for number, (piece, scored) in enumerate(zip(self.share.pieces, self.own, strict=True)):
            found.append((self.share.score(piece) if number < self.share.again else scored).sensitivity(piece))
        return self.share.joined(found)


def _computed_again(score: Score, part: PackedBatch) -> Scored:
    """What `score` gives for a part, of which no activations are kept."""
    names: list[str] = []

    def compute() -> tuple[torch.Tensor | None, ...]:
        scored = score(part)
        names[:] = scored.attention
        return scored.logits, scored.states, *scored.attention.values()

    found: Any = _Again.apply(torch.zeros((), requires_grad=True), compute, part.labels.device)
    logits, states, *attention = found
    return Scored(logits, states, attention=dict(zip(names, attention, strict=True)))


class _Again(torch.autograd.Function):
    """The tensors that `compute` gives. The backward pass calls it again, with the same random numbers, and goes on
    through what it did: what torch's checkpoint does, but where no gradient comes none is made of zeros, which an
    optimiser would take for one."""

    @staticmethod
    def forward(ctx, anchor: torch.Tensor, compute: Callable, device: torch.device):
        ctx.set_materialize_grads(False)
        ctx.compute, ctx.gpus = compute, [device] if device.type == "cuda" else []
        ctx.random = torch.get_rng_state(), [torch.cuda.get_rng_state(gpu) for gpu in ctx.gpus]
        return compute()

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor | None):
        with torch.random.fork_rng(ctx.gpus), torch.enable_grad():
            torch.set_rng_state(ctx.random[0])
            for gpu, state in zip(ctx.gpus, ctx.random[1], strict=True):
                torch.cuda.set_rng_state(state, gpu)
            found = ctx.compute()
        given = [(output, gradient) for output, gradient in zip(found, gradients, strict=True) if gradient is not None]
        outputs, of_outputs = zip(*given, strict=True)
        torch.autograd.backward(outputs, of_outputs)
        return None, None, None


def gather_rows(own: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The rows (n_r, ...) of all ranks r, `sizes` of them, one rank after the other, with a gradient for its own."""
    padded = own.new_zeros(max(sizes), *own.shape[1:])
    padded[: len(own)] = own.detach()
    found = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(found, padded)
    rows = [rows[:size] for rows, size in zip(found, sizes, strict=True)]
    rows[ranks.rank()] = own
    joined = torch.cat(rows)
    if joined.requires_grad:
        joined.register_hook(lambda gradient: gradient * ranks.world())
    return joined
