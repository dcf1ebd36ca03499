"""What the terms of Eq. 7 compute."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
import torch.nn.functional as F

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.training.losses import ranking_loss


def label_loss(z: torch.Tensor, batch: PackedBatch, list_weight: float) -> torch.Tensor | None:
    """L_task: `ranking_loss` of the logits z (N,) over the lists whose labels are known; None where there are none."""
    known = batch.labels.isfinite()  # (N,), alike in a list
    if not known.any():
        return None
    return ranking_loss(z[known], batch.labels[known], batch.list_of[known], list_weight)[0]


def output_loss(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """L_output: KL of the Bernoulli distributions of two logits (N,) at `temperature`, times temperature^2."""
    t, s = teacher / temperature, student / temperature
    p = torch.sigmoid(t)
    kl = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return kl.mean() * temperature**2


def layer_losses(targets: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
    """Eq. 8 for each pair: mean squared error of standardised teacher states (N, P, d_T), as (P,). A share of the
    constant predictor's error: 1 where the student knows no more than the mean, 0 where it is exact."""
    return (targets - adapted).square().mean((0, 2))


def ridge_maps(
    states: torch.Tensor, student_layers: Sequence[int], targets: torch.Tensor, ridge: float = 1.0
) -> tuple[torch.Tensor, torch.Tensor]:
    """What Adapt starts as: the ridge regression of targets (N, P, d_T) on the states (N, L_S, d_S) of the student
    layer (from 0) that each is matched with, as maps (P, d_T, d_S) and offsets (P, d_T). `ridge` is relative to the
    mean square of a state's channel, not to its variance: the states of a random start hardly differ, and maps that
    read their small differences would turn the student's first steps into large errors."""
    mean = states.double().mean(0)  # (L_S, d_S)
    centred = (states.double() - mean).transpose(0, 1)  # (L_S, N, d_S)
    moments = centred.mT @ centred  # (L_S, d_S, d_S)
    diagonal = moments.diagonal(dim1=1, dim2=2)
    diagonal += ridge * states.double().square().sum(0).mean(1, keepdim=True)
    found = targets.double().transpose(0, 1)  # (P, N, d_T)
    mean_target = found.mean(1)  # (P, d_T)
    layers, root = list(student_layers), torch.linalg.cholesky(moments)  # (L_S, d_S, d_S)
    maps = torch.cholesky_solve(centred[layers].mT @ (found - mean_target[:, None]), root[layers]).mT  # (P, d_T, d_S)
    offsets = mean_target - (maps @ mean[layers][..., None])[..., 0]
    return maps.float(), offsets.float()


def l2(parameters: Iterable[torch.Tensor]) -> torch.Tensor:
    """L_reg of Eq. 7: the mean of all squared parameters. Their sum would drown the task."""
    found = list(parameters)
    return torch.stack([p.square().sum() for p in found]).sum() / sum(p.numel() for p in found)
