"""Layers that keep no activations: the backward pass computes them again."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from fisher_ld.kernels.linear import replaced


def recomputed(layers: Iterable[nn.Module], reentrant: bool = False) -> AbstractContextManager[None]:
    """Within it each of `layers` keeps what goes into it alone. `reentrant`: hooks see both passes, what goes in must
    require a gradient, and there must be no dropout."""

    def wrap(forward: Callable) -> Callable:
        def checkpointed(states: torch.Tensor, *others: object, **named: object) -> object:
            computed = partial(forward, **named)
            return checkpoint(computed, states, *others, use_reentrant=reentrant, preserve_rng_state=not reentrant)

        return checkpointed

    return replaced(dict.fromkeys(layers, wrap))
