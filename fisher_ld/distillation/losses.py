"""What the terms of Eq. 7 compute."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.models.scorer import unit_rms
from fisher_ld.training.losses import ranking_loss


def label_loss(z: torch.Tensor, batch: PackedBatch, list_weight: float) -> torch.Tensor | None:
    """L_task: `ranking_loss` of the logits z (N,) over the lists whose labels are known; None where there are none."""
    known = batch.labels.view(batch.lists, -1).isfinite().all(1)  # (lists,)
    if not known.any():
        return None
    chosen = known.repeat_interleave(len(z) // batch.lists)  # (N,)
    return ranking_loss(z[chosen], batch.labels[chosen], int(known.sum()), list_weight)[0]


def output_loss(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """L_output: KL of the Bernoulli distributions of two logits (N,) at `temperature`, times temperature^2."""
    t, s = teacher / temperature, student / temperature
    p = torch.sigmoid(t)
    kl = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return kl.mean() * temperature**2


def layer_losses(teacher: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
    """Eq. 8 for each pair: mean squared error of unit-RMS states (N, P, d), as (P,)."""
    return (unit_rms(teacher) - unit_rms(adapted)).square().mean((0, 2))


def l2(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """The literal L_reg of Eq. 7: the sum of all squared parameters."""
    return torch.stack([p.square().sum() for p in parameters]).sum()
