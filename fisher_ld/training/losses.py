"""What a scorer of yes and no is trained on."""

from __future__ import annotations

import torch
import torch.nn.functional as F


def ranking_loss(
    z: torch.Tensor, labels: torch.Tensor, list_of: torch.Tensor, list_weight: float
) -> tuple[torch.Tensor, dict[str, float]]:
    """Binary cross-entropy (Eq. 2), and the softmax cross-entropy of the positive within its list, mixed by
    `list_weight`. z and labels (N,); list_of (N,): which list each is of, in any numbering. Returns the loss and its
    two parts."""
    bce = F.binary_cross_entropy_with_logits(z, labels)
    softmax = list_cross_entropy(z, labels, list_of)
    return (1 - list_weight) * bce + list_weight * softmax, {"bce": bce.item(), "list_softmax": softmax.item()}


def list_cross_entropy(z: torch.Tensor, target: torch.Tensor, list_of: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of the softmax over each list from `target` (N,), a distribution over each list, mean over lists:
    lists may be of any lengths."""
    return -(target * list_log_softmax(z, list_of)).sum() / len(list_of.unique())


def list_log_softmax(z: torch.Tensor, list_of: torch.Tensor) -> torch.Tensor:
    """The logarithm of the softmax over each list, (N,)."""
    numbers, own = list_of.unique(return_inverse=True)  # (lists,), (N,)
    largest = z.new_full((len(numbers),), -torch.inf).scatter_reduce(0, own, z.detach(), "amax")
    total = z.new_zeros(len(numbers)).index_add(0, own, (z - largest[own]).exp())
    return z - (largest + total.log())[own]
