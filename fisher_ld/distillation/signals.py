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


@dataclass(frozen=True)
class StateStatistics:
    """Of the signal `states`, channel by channel. Nearly all of a state's energy is its mean over examples, and a
    handful of channels hold most of the rest: a loss on raw states would reward the constant."""

    mean: torch.Tensor  # (L, d)
    deviation: torch.Tensor  # (L, d)

    @classmethod
    def of(cls, states: torch.Tensor) -> StateStatistics:
        """From the states (N, L, d) of a sample."""
        states = states.double()
        return cls(states.mean(0).float(), states.std(0, correction=0).clamp(min=1e-4).float())

    def to(self, device: torch.device) -> StateStatistics:
        return StateStatistics(self.mean.to(device), self.deviation.to(device))

    def standardise(self, states: torch.Tensor) -> torch.Tensor:
        """(N, L, d) of mean 0 and deviation 1 in every channel of the sample."""
        return (states - self.mean) / self.deviation


class TeacherSignals(Protocol):
    """Where the teacher's knowledge comes from: the cache, or the teacher itself."""

    def statistics(self) -> StateStatistics:
        """Of the states of its examples."""
        ...

    def signals(self, examples: np.ndarray, names: Sequence[str]) -> dict[str, torch.Tensor]:
        """The signals of these names for examples (N,), each (N, *shape) in float32."""
        ...
