"""The terms of Eq. 7 and those of its rivals, a class each: its name, the key of its weight in `distill`, and the
teacher's signals that it needs. Built once for a training, it is called on every batch.

Torch is imported where a term is built, so that the table of methods costs nothing to read.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from fisher_ld.config.params import Distill
    from fisher_ld.distillation.matching import Matching
    from fisher_ld.distillation.objective import Loss
    from fisher_ld.fisher.profile import Kind


BASIC = frozenset({"logits", "states"})  # signals that are cached of every teacher; others where a method needs them


class Term:
    """One part of a method's loss."""

    name: ClassVar[str]  # in curves
    weight: ClassVar[str]  # key of `distill`
    signals: ClassVar[tuple[str, ...]] = ()  # of the teacher, as the cache names them
    unlabelled: ClassVar[bool] = False  # whether it learns from windows without labels alone

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        """The loss of one training; None where it is absent from a batch. `matching`: of a method with signals of
        layers."""
        raise NotImplementedError


@dataclass(frozen=True)
class Labels(Term):
    """alpha L_task: binary cross-entropy, and the softmax over the list in the share `distill.list_weight`. Absent
    where no list of the batch has a label."""

    name, weight = "labels", "alpha"

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import label_loss

        return lambda student, signals, batch: label_loss(student.logits, batch, distill.list_weight)


@dataclass(frozen=True)
class Output(Term):
    """beta L_output: the KL divergence of the student's answers from the teacher's at a temperature."""

    name, weight, signals = "output", "output_weight", ("logits",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import output_loss

        return lambda student, signals, batch: output_loss(signals["logits"], student.logits, distill.temperature)


@dataclass(frozen=True)
class ListOutput(Term):
    """The KL divergence of the student's softmax over each list from the teacher's, at a temperature."""

    name, weight, signals = "list_output", "output_weight", ("logits",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import list_output_loss

        return lambda student, signals, batch: list_output_loss(
            signals["logits"], student.logits, batch.list_of, distill.temperature
        )


@dataclass(frozen=True)
class TopRanked(Term):
    """The candidates that the teacher ranks highest in a list without label, as if they were liked. Absent where all
    lists of the batch have labels."""

    name, weight, signals, unlabelled = "top_ranked", "output_weight", ("logits",), True

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import top_ranked_loss

        return lambda student, signals, batch: top_ranked_loss(signals["logits"], student.logits, batch)


@dataclass(frozen=True)
class Layers(Term):
    """gamma sum_l w_l L_layer^(l) (Eq. 8), with the weights of a strategy: in their own order, or as a control in
    another one; fixed, or changing in training (Eq. 9). Which layers are compared, and how far apart two states are,
    is a method's own where it says so."""

    strategy: str = "uniform"  # of distillation.weights
    order: Literal["own", "shuffled", "reversed"] = "own"
    dynamic: bool = False
    depth_bias: bool = True  # of Eq. 6, for strategies of a Fisher measure
    kind: Kind | None = None  # of Fisher; None: fisher.kind
    sampled: bool = True  # by fisher.samples examples; or by fisher.unsampled
    pairs: str | None = None  # of distillation.layer_map; None: distill.layer_map
    only: int | None = None  # of these the pair of one student layer
    distance: Literal["squared", "cosine"] = "squared"

    name, weight, signals = "layers", "layer_weight", ("states",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.matching import LayerMatching

        return LayerMatching(_given(matching), self)


@dataclass(frozen=True)
class AttentionMaps(Term):
    """The decision token's attention, squared and averaged over heads, at unit length: its squared distance from the
    teacher's, in evenly spaced pairs of layers."""

    name, weight, signals = "attention", "layer_weight", ("attention",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import attention_map_loss

        return _in_spaced_pairs(attention_map_loss, "attention", matching)


@dataclass(frozen=True)
class AttentionScores(Term):
    """The decision token's attention scores before the softmax, in common relation heads: their mean squared distance
    from the teacher's, in evenly spaced pairs of layers."""

    name, weight, signals = "scores", "layer_weight", ("scores",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import attention_score_loss

        return _in_spaced_pairs(attention_score_loss, "scores", matching)


@dataclass(frozen=True)
class Relations(Term):
    """The decision token's attention and value relations in the last layer, in common relation heads: their KL
    divergence from the teacher's."""

    name, weight, signals = "relations", "layer_weight", ("relations",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.losses import relation_loss

        return lambda student, signals, batch: relation_loss(signals["relations"], student)


def _in_spaced_pairs(loss: Callable, signal: str, matching: Matching | None) -> Loss:
    """`loss(teacher, student, pairs)` of evenly spaced pairs of layers."""
    pairs = _given(matching).pairs("spaced")
    return lambda student, signals, batch: loss(signals[signal], student, pairs)


def _given(matching: Matching | None) -> Matching:
    if matching is None:
        raise ValueError("expected the layers to match and their weights, got none")
    return matching
