"""The methods of distillation: a row each. A method is the terms of its loss, all at once or in phases; the trainer
knows none of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from fisher_ld.distillation.terms import (
    BASIC,
    AttentionMaps,
    AttentionScores,
    Labels,
    Layers,
    ListOutput,
    Output,
    Relations,
    Term,
    TopRanked,
)


@dataclass(frozen=True)
class Phase:
    """Some of the steps, with a loss and a cycle of the learning rate of their own."""

    share: float  # of the steps
    terms: tuple[Term, ...]
    only: tuple[int, int] | None = None  # first and last student layer that train in it, the embedding with the lowest


@dataclass(frozen=True)
class Method:
    label: str  # in tables and pictures
    source: str  # where it is defined
    colour: str  # in pictures
    phases: Callable[[int], Sequence[Phase]]  # student layers -> phases, whose shares have the sum 1

    @property
    def terms(self) -> list[Term]:
        """Of all phases, each once."""
        return list(dict.fromkeys(chain(*(phase.terms for phase in self.phases(2)))))

    @property
    def signals(self) -> set[str]:
        """What it needs of the teacher, as the cache names it."""
        return {signal for term in self.terms for signal in term.signals}

    @property
    def own_signals(self) -> set[str]:
        """Of these what is cached for methods that need it alone."""
        return self.signals - BASIC

    @property
    def labelled(self) -> bool:
        """Whether it learns from labels."""
        return Labels() in self.terms

    @property
    def layers(self) -> Layers | None:
        """Its layer term, if it has one."""
        return next((term for term in self.terms if isinstance(term, Layers)), None)

    @property
    def weighed(self) -> str | None:
        """The key of `distill` that says how much it takes from the teacher: of its layers, else of its answers; None
        without a teacher. A phase that has other keys too comes first, as AdamW takes little notice of a factor of a
        whole loss: only gradients are clipped sooner."""
        each = [{term.weight for term in phase.terms} for phase in self.phases(2)]
        found = set().union(*(keys for keys in each if len(keys) > 1)) or set().union(*each)
        return next((key for key in ("layer_weight", "output_weight") if key in found), None)

    @property
    def weighting(self) -> bool:
        """Whether it differs from uniform layers in the weights of layers alone, as the rows of Table III do."""
        return self.layers is not None and self.layers.pairs is None and Output() in self.terms


def at_once(*terms: Term) -> Callable[[int], Sequence[Phase]]:
    return lambda layers: (Phase(1.0, terms),)


def _layered(layers: Layers) -> Callable[[int], Sequence[Phase]]:
    return at_once(Labels(), Output(), layers)


def _then_answers(*first: Term) -> Callable[[int], Sequence[Phase]]:
    """Half of the steps for what the teacher is inside, half for what it answers."""
    return lambda layers: (Phase(0.5, first), Phase(0.5, (Labels(), Output())))


def _hints(layers: int) -> Sequence[Phase]:
    """The middle layer, which those above it do not reach, then all layers for the answers."""
    below = 1, math.ceil(layers / 2)
    return Phase(0.5, (Layers(pairs="middle"),), below), Phase(0.5, (Labels(), Output()))


def _layer_by_layer(layers: int) -> Sequence[Phase]:
    """From the lowest student layer up, those below at rest, then all of them for the answers."""
    each = [Phase(0.5 / layers, (Layers(pairs="spaced", only=m),), (m, m)) for m in range(1, layers + 1)]
    return *each, Phase(0.5, (Labels(), Output()))


METHODS: Mapping[str, Method] = {
    "none": Method("no distillation", "labels alone", "#8a8f98", at_once(Labels())),
    "logits": Method("logits alone", "Hinton 2015", "#5c6b2f", at_once(Labels(), Output())),
    "list-kl": Method("logits over a list", "KL over candidates", "#7f8f3f", at_once(Labels(), ListOutput())),
    "ranking": Method(
        "Ranking Distillation", "Tang & Wang 2018", "#a3a847", at_once(Labels(), TopRanked())
    ),
    "attention-transfer": Method(
        "Attention Transfer", "Zagoruyko & Komodakis 2017", "#c77f3d", at_once(Labels(), Output(), AttentionMaps())
    ),
    "fitnets": Method("FitNets", "Romero 2015", "#9b5f3f", _hints),
    "progressive": Method("Progressive KD", "Sun 2020 (MobileBERT)", "#7d4e57", _layer_by_layer),
    "tinybert": Method(
        "TinyBERT", "Jiao 2020", "#2f8f8b",
        lambda layers: (
            Phase(0.5, (Layers(pairs="spaced"), AttentionScores())),
            Phase(0.5, (Output(),)),
        ),
    ),
    "minilm": Method("MiniLM", "Wang 2020, 2021", "#4fb0a5", _then_answers(Relations())),
    "distilbert": Method(
        "DistilBERT", "Sanh 2019", "#d17a9b", at_once(Labels(), Output(), Layers(pairs="final", distance="cosine"))
    ),
    "pkd": Method("PKD", "Sun 2019", "#e3a6bd", at_once(Labels(), Output(), Layers(pairs="skip", distance="cosine"))),
    "uniform": Method("uniform layers", "Eq. 7, w = 1 / L", "#e07a1f", _layered(Layers("uniform"))),
    "linear": Method("linear depth", "Table III", "#3a9a5b", _layered(Layers("linear"))),
    "exponential": Method("exponential depth", "Table III", "#8a63d2", _layered(Layers("exponential"))),
    "attention-based": Method("attention-based", "Table III", "#6d8fc9", _layered(Layers("attention"))),
    "fisher": Method("Fisher, fixed weights", "Eq. 5, 6", "#69b3e7", _layered(Layers("fisher"))),
    "fisher-label": Method(
        "Fisher of labels, fixed weights", "Eq. 3, 5, 6", "#7a9bd4", _layered(Layers("fisher", kind="label"))
    ),
    "fisher-list": Method(
        "Fisher of lists, fixed weights", "softmax over a list", "#5d7fc0", _layered(Layers("fisher", kind="list"))
    ),
    "fisher-ld-no-depth": Method(
        "Fisher-LD without depth factor", "Table X", "#3f6f9f",
        _layered(Layers("fisher", dynamic=True, depth_bias=False)),
    ),
    "fisher-ld-no-sampling": Method(
        "Fisher-LD without sampling", "Table X", "#2c5a86", _layered(Layers("fisher", dynamic=True, sampled=False))
    ),
    "fisher-ld-no-output": Method(
        "Fisher-LD without logits", "Table X", "#5b8ab5", at_once(Labels(), Layers("fisher", dynamic=True))
    ),
    "fisher-per-parameter": Method(
        "Fisher per parameter", "control", "#86b6d6", _layered(Layers("per-parameter"))
    ),
    "fisher-relative": Method("Fisher of the state", "control", "#a7cbe3", _layered(Layers("relative"))),
    "fisher-without-last": Method("Fisher without the last", "control", "#4a86ad", _layered(Layers("without-last"))),
    "fisher-fixed-shuffled": Method(
        "Fisher shuffled, fixed weights", "control", "#e295b1", _layered(Layers("fisher", order="shuffled"))
    ),
    "fisher-fixed-reversed": Method(
        "Fisher reversed, fixed weights", "control", "#d8bd5f", _layered(Layers("fisher", order="reversed"))
    ),
    "fisher-shuffled": Method(
        "Fisher-LD shuffled", "control", "#c94f7c", _layered(Layers("fisher", order="shuffled", dynamic=True))
    ),
    "fisher-reversed": Method(
        "Fisher-LD reversed", "control", "#b58900", _layered(Layers("fisher", order="reversed", dynamic=True))
    ),
    "fisher-ld": Method("Fisher-LD", "Eq. 7, 9", "#1f6fb4", _layered(Layers("fisher", dynamic=True))),
}  # fmt: skip
