"""The components of Eq. 7."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fisher_ld.models.scorer import unit_rms


def output_loss(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL of the Bernoulli distributions of two logits (N,) at `temperature`, times temperature^2."""
    t, s = teacher / temperature, student / temperature
    p = torch.sigmoid(t)
    kl = p * (F.logsigmoid(t) - F.logsigmoid(s)) + (1 - p) * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return kl.mean() * temperature**2


def layer_losses(teacher: torch.Tensor, adapted: torch.Tensor) -> torch.Tensor:
    """Eq. 8 for each pair: mean squared error of unit-RMS states (N, P, d), as (P,)."""
    return (unit_rms(teacher) - unit_rms(adapted)).square().mean((0, 2))


def l2(parameters) -> torch.Tensor:
    """The literal L_reg of Eq. 7: the sum of all squared parameters."""
    return torch.stack([p.square().sum() for p in parameters]).sum()
