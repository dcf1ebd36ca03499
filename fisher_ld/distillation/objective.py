"""Eq. 7."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import nn

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.models.scorer import Scored


class TrainedTerm(nn.Module):
    """A term with parameters or a state of its own, which is trained and kept with the student."""

    def __init__(self) -> None:
        super().__init__()
        self.trajectory: list[dict[str, float]] = []  # rows of what changed in training

    def begin_phase(self) -> None:
        """Is called where its phase begins after another, and the student is no longer as it was when it was built."""

    def begin_step(self, step: int) -> None:
        """Is called before every optimiser step."""


Loss = Callable[[Scored, Mapping[str, torch.Tensor], PackedBatch], torch.Tensor | None]


def objective(
    losses: Mapping[str, Loss],
    weights: Mapping[str, float],
    student: Scored,
    signals: Mapping[str, torch.Tensor],
    batch: PackedBatch,
) -> tuple[torch.Tensor, dict[str, float]]:
    """Eq. 7: alpha L_task + beta L_output + gamma sum_l w_l L_layer^(l) + lambda L_reg, the weighted sum of a method's
    terms, and their values by name. A term that is absent from the batch (None) leaves the other weights as they are.
    lambda L_reg is AdamW's decoupled weight decay, unless it is among the terms. Raises ValueError where no term is
    left."""
    values = {name: loss(student, signals, batch) for name, loss in losses.items()}
    present = {name: value for name, value in values.items() if value is not None}
    if not present:
        raise ValueError(f"expected a batch that at least one of {', '.join(losses)} can learn from, got none for any")
    total = torch.stack([weights[name] * value for name, value in present.items()]).sum()
    return total, {name: value.item() for name, value in present.items()}
