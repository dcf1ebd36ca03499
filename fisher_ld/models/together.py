"""A batch that ranks share: each scores its part, and all have the whole. A loss is then what it would be on one rank,
whatever it is a mean over, and terms that only some parts hold need no care."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import PackedBatch, parts
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core import ranks
from fisher_ld.models.scorer import Scored, Scorer


def score_together(
    scorer: Scorer,
    lists: Lists,
    windows: list[np.ndarray],
    prompts: Prompts,
    score: Callable[[PackedBatch], Scored],
    divide: bool = True,
) -> tuple[Scored, PackedBatch]:
    """What `score` gives for the windows, packed, and of the batch what a loss needs. Where ranks share it, the
    gradient that a loss has on one of them is its part's times the number of ranks: their mean is the gradient of the
    batch. `divide`: whether `score` gives what can be put together, logits and states; else each rank does it all, as
    where there are fewer lists than ranks."""
    if ranks.world() == 1 or not divide or sum(map(len, windows)) < ranks.world():
        batch = scorer.pack(lists, windows, prompts)
        return score(batch), batch
    divided = parts(lists, windows, ranks.world())
    own = scorer.pack(lists, divided[ranks.rank()], prompts)
    candidates, numbers = np.diff(lists.offsets), np.concatenate(windows)
    sizes = [int(candidates[np.concatenate(part)].sum()) for part in divided]
    scored, device = score(own), own.labels.device
    list_of = np.repeat(np.arange(len(numbers)), candidates[numbers])
    whole = replace(
        own,
        examples=torch.from_numpy(lists.examples(numbers)).to(device),
        labels=torch.from_numpy(lists.labels(numbers)).to(device),
        list_of=torch.from_numpy(list_of).to(device),
        tokens=own.tokens * ranks.world(),
    )
    states = None if scored.states is None else gather_rows(scored.states, sizes)
    return SharedScored(gather_rows(scored.logits, sizes), states, own=scored, part=own, sizes=sizes), whole


@dataclass(frozen=True)
class SharedScored(Scored):
    """All parts of a batch; `own` is this rank's, of the batch `part`."""

    own: Scored | None = None
    part: PackedBatch | None = None
    sizes: Sequence[int] = ()

    def sensitivity(self, batch: PackedBatch) -> torch.Tensor:
        assert self.own is not None and self.part is not None
        return gather_rows(self.own.sensitivity(self.part), self.sizes)


def gather_rows(own: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
    """The rows (n_r, ...) of all ranks r, `sizes` of them, one rank after the other, with a gradient for its own."""
    return _Gather.apply(own, sizes)  # pyright: ignore[reportReturnType]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, own: torch.Tensor, sizes: Sequence[int]) -> torch.Tensor:
        ctx.begin, ctx.size = sum(sizes[: ranks.rank()]), len(own)
        padded = own.new_zeros(max(sizes), *own.shape[1:])
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in sizes]
        torch.distributed.all_gather(found, padded)
        return torch.cat([rows[:size] for rows, size in zip(found, sizes, strict=True)])

    @staticmethod
    def backward(ctx, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0][ctx.begin : ctx.begin + ctx.size] * ranks.world(), None
