"""What students may learn from: the teacher's signals, each of which the cache holds by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from fisher_ld.models.scorer import Scored, unit_rms


@dataclass(frozen=True)
class Signal:
    dtype: type[np.generic]  # on disk
    shape: Callable[[int, int], tuple[int, ...]]  # of one example, for L layers of width d
    of: Callable[[Scored], torch.Tensor | None]  # (N, *shape)


SIGNALS: Mapping[str, Signal] = {
    "logits": Signal(np.float32, lambda layers, width: (), lambda scored: scored.logits),
    # h_l / rms(h_l), which no activation can overflow in float16
    "states": Signal(
        np.float16,
        lambda layers, width: (layers, width),
        lambda scored: None if scored.states is None else unit_rms(scored.states.float()),
    ),
}


class TeacherSignals(Protocol):
    """Where the teacher's knowledge comes from: the cache, or the teacher itself."""

    layers: int
    width: int

    def signals(self, examples: np.ndarray, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The signals of these names for examples (N,), each (N, *shape) in float32."""
        ...
