"""The terms of Eq. 7, a class each: its name, the key of its weight in `distill`, and the teacher's signals that it
needs. Built once for a training, it is called on every batch.

Torch is imported where a term is built, so that the table of methods costs nothing to read.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

if TYPE_CHECKING:
    from fisher_ld.config.params import Distill
    from fisher_ld.distillation.matching import Matching
    from fisher_ld.distillation.objective import Loss


class Term:
    """One part of a method's loss."""

    name: ClassVar[str]  # in curves
    weight: ClassVar[str]  # key of `distill`
    signals: ClassVar[tuple[str, ...]] = ()  # of the teacher, as the cache names them

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        """The loss of one training; None where it is absent from a batch."""
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
class Layers(Term):
    """gamma sum_l w_l L_layer^(l) (Eq. 8), with the weights of a strategy: in their own order, or as a control in
    another one; fixed, or changing in training (Eq. 9)."""

    strategy: str  # of distillation.weights
    order: Literal["own", "shuffled", "reversed"] = "own"
    dynamic: bool = False

    name, weight, signals = "layers", "layer_weight", ("states",)

    def build(self, distill: Distill, matching: Matching | None) -> Loss:
        from fisher_ld.distillation.matching import LayerMatching

        if matching is None:
            raise ValueError("expected the layers to match and their weights, got none")
        return LayerMatching(matching, self.order, self.dynamic)
