"""The methods of distillation: a row each. A method is the terms of its loss; the trainer knows none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fisher_ld.distillation.terms import Labels, Layers, Output, Term


@dataclass(frozen=True)
class Method:
    label: str  # in tables and pictures
    source: str  # where it is defined
    colour: str  # in pictures
    terms: tuple[Term, ...]

    @property
    def signals(self) -> set[str]:
        """What it needs of the teacher, as the cache names it."""
        return {signal for term in self.terms for signal in term.signals}

    @property
    def layers(self) -> Layers | None:
        """Its layer term, if it has one."""
        return next((term for term in self.terms if isinstance(term, Layers)), None)


def _layered(strategy: str, **options) -> tuple[Term, ...]:
    return Labels(), Output(), Layers(strategy, **options)


METHODS: Mapping[str, Method] = {
    "none": Method("no distillation", "labels alone", "#8a8f98", (Labels(),)),
    "logits": Method("logits alone", "Hinton 2015", "#5c6b2f", (Labels(), Output())),
    "uniform": Method("uniform layers", "Eq. 7, w = 1 / L", "#e07a1f", _layered("uniform")),
    "linear": Method("linear depth", "Table III", "#3a9a5b", _layered("linear")),
    "exponential": Method("exponential depth", "Table III", "#8a63d2", _layered("exponential")),
    "fisher": Method("Fisher, fixed weights", "Eq. 5, 6", "#69b3e7", _layered("fisher")),
    "fisher-shuffled": Method(
        "Fisher-LD shuffled", "control", "#c94f7c", _layered("fisher", order="shuffled", dynamic=True)
    ),
    "fisher-reversed": Method(
        "Fisher-LD reversed", "control", "#b58900", _layered("fisher", order="reversed", dynamic=True)
    ),
    "fisher-ld": Method("Fisher-LD", "Eq. 7, 9", "#1f6fb4", _layered("fisher", dynamic=True)),
}
