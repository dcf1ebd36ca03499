"""What students may learn from: the teacher's signals, each of which the cache holds by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol

import numpy as np
import torch

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.distillation.terms import BASIC
from fisher_ld.models import relations
from fisher_ld.models.relations import HEADS, Attended, Places
from fisher_ld.models.scorer import Scored, Scorer, unit_rms


class Sizes(NamedTuple):
    """Of the teacher that gives the signals."""

    layers: int  # L
    width: int  # d
    tokens: int  # P, of the longest prompt


@dataclass(frozen=True)
class Signal:
    dtype: type[np.generic]  # on disk
    shape: Callable[[Sizes], tuple[int, ...]]  # of one example
    of: Callable[[Scored], torch.Tensor]  # (N, *shape); of attention with fewer places where the batch has no longer
    # prompt


def _states(scored: Scored) -> torch.Tensor:
    """h_l / rms(h_l), which no activation can overflow in float16."""
    assert scored.states is not None
    return unit_rms(scored.states.float())


SIGNALS: Mapping[str, Signal] = {
    "logits": Signal(np.float32, lambda sizes: (), lambda scored: scored.logits),
    "states": Signal(np.float16, lambda sizes: (sizes.layers, sizes.width), _states),
    "attention": Signal(
        np.float16, lambda sizes: (sizes.layers, sizes.tokens), lambda scored: scored.attention["attention"]
    ),
    "scores": Signal(
        np.float16, lambda sizes: (sizes.layers, HEADS, sizes.tokens), lambda scored: scored.attention["scores"]
    ),
    "relations": Signal(
        np.float16, lambda sizes: (2, HEADS, sizes.tokens), lambda scored: scored.attention["relations"]
    ),
}
_OF_ATTENTION: Mapping[str, Callable[[Sequence[Attended], Places], torch.Tensor]] = {
    "attention": relations.attention_maps,
    "scores": relations.attention_scores,
    "relations": lambda attended, places: relations.relations(attended[-1], places),
}


def asked(scorer: Scorer, batch: PackedBatch, signals: Collection[str]) -> Scored:
    """What a scorer gives for a batch, with what these signals are made of."""
    own = sorted({*signals} - BASIC)
    scored = scorer(batch, with_states="states" in signals, with_attention=bool(own))
    if not own:
        return scored
    places = Places.of(batch)
    said = {name: _OF_ATTENTION[name](scored.attended, places) for name in own}
    return replace(scored, attended=(), attention={"present": places.present, **said})


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
