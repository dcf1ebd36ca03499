"""What a scorer of yes and no is trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def ranking_loss(
    z: torch.Tensor, labels: torch.Tensor, lists: int, list_weight: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Binary cross-entropy (Eq. 2), and the softmax cross-entropy of the positive within its list, mixed by
    `list_weight`. z and labels (N,) hold `lists` lists of equal length, one after the other. Returns the loss and its
    two parts."""
    bce = F.binary_cross_entropy_with_logits(z, labels)
    softmax = F.cross_entropy(z.view(lists, -1), labels.view(lists, -1).argmax(1))
    return (1 - list_weight) * bce + list_weight * softmax, {"bce": bce.item(), "list_softmax": softmax.item()}
