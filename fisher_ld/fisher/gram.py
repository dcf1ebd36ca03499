"""The squared norm of G^T A without G^T A: sum((A A^T) * (G G^T)).

Gram matrices are symmetric, so only the blocks on and above the diagonal are computed, strip by strip: a strip holds
the rows i..i+b of the matrix from column i on.
"""

from __future__ import annotations

import torch

from fisher_ld.kernels.attention import spans


def gram_is_cheaper(length: int, inputs: int, outputs: int) -> bool:
    """Compares the multiply-adds of the Gram form with those of the gradient itself (formed, then read once), for
    linear layers that share their `inputs` features and have `outputs` features together."""
    entries = sum((j - i) * (length - i) for i, j in spans(length))
    return entries * (inputs + outputs) < (length + 1) * inputs * outputs


def gram(x: torch.Tensor) -> list[torch.Tensor]:
    """Strips of x x^T for each example: (N, T, d) -> [(N, b, T - i)]."""
    return [torch.bmm(x[:, i:j], x[:, i:].mT) for i, j in spans(x.shape[1])]


def count_mirrored(strips: list[torch.Tensor]) -> list[torch.Tensor]:
    """Doubles, in place, what stands for its mirror image as well: everything right of a strip's diagonal block."""
    for strip in strips:
        strip[:, :, strip.shape[1] :] *= 2
    return strips


def gram_product(strips: list[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """sum(K * x x^T) for each example, with K in strips and counted for its mirror: (N,) float64."""
    rows = [other.mul_(strip).sum(-1) for strip, other in zip(strips, gram(x), strict=True)]  # (N, b)
    return torch.cat(rows, 1).sum(-1, dtype=torch.float64)


def gradient_norm(inputs: torch.Tensor, gradient: torch.Tensor) -> torch.Tensor:
    """||G^T A||_F^2 for each example from the gradient itself, one example at a time so that only one is in memory:
    (N, T, d_in), (N, T, d_out) -> (N,) float64."""
    norms = [torch.linalg.vector_norm(g.mT @ a, dim=-1) for a, g in zip(inputs, gradient, strict=True)]  # (d_out,)
    return torch.stack(norms).double().square().sum(-1)  # (N,)
