"""Layer matching: which states are compared, by which weights, and how these change in training (Eq. 8, 9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.losses import cosine_losses, layer_losses, ridge_maps
from fisher_ld.distillation.objective import TrainedTerm
from fisher_ld.distillation.signals import StateStatistics
from fisher_ld.distillation.terms import Layers
from fisher_ld.distillation.weights import ordered
from fisher_ld.models.scorer import Scored, unit_rms


@dataclass(frozen=True)
class Weighting:
    """The layers that are matched, where a method does not say it, the weights that it starts from, and how Eq. 9
    changes them."""

    default_pairs: Sequence[tuple[int, int]]  # teacher layer, student layer, both from 1
    weights: Sequence[float]  # w_l of every teacher layer, (L_T,)
    depth_bias: Sequence[float]  # of Eq. 6, (L_T,)
    update_rate: float  # eta of Eq. 9
    update_interval: int  # optimiser steps
    teacher_trace: Callable[[np.ndarray], torch.Tensor] | None = None  # examples -> tr(F_l) (L_T,), online; None: Eq. 9
    # follows the student's own Fisher


@dataclass(frozen=True)
class Matching:
    """What a term of layers is built from."""

    weighting: Weighting
    student_layers: int
    statistics: StateStatistics | None  # of the teacher's states, where the student is; None without that signal
    start: Callable[[], tuple[torch.Tensor, torch.Tensor]]  # states (N, L_S, d_S) of the student as it is now, and of
    # its teacher (N, L_T, d_T)
    recent_trace: Callable[[int], torch.Tensor] | None  # step -> the online teacher's tr(F_l) (L_T,) on examples read
    # since the last update
    seed: int  # of a shuffled order

    def pairs(self, kind: str | None) -> Sequence[tuple[int, int]]:
        """Of a map of `layer_map`; None: of the default."""
        given = self.weighting
        return given.default_pairs if kind is None else layer_map(kind, len(given.weights), self.student_layers, "")


class LayerMatching(TrainedTerm):
    """The layer term of Eq. 7: one linear map d_S -> d_T for each pair (Adapt), and the weights of the pairs."""

    weights: torch.Tensor  # (P,)
    sharing: torch.Tensor  # (P,) how many pairs have the same student layer

    def __init__(self, matching: Matching, term: Layers):
        super().__init__()
        self.matching, self.dynamic, self.due, self.step = matching, term.dynamic, False, 0
        self.losses = {"squared": layer_losses, "cosine": cosine_losses}[term.distance]
        if matching.statistics is None:
            raise ValueError("expected the statistics of the teacher's states, got none")
        self.statistics = matching.statistics
        pairs = [pair for pair in matching.pairs(term.pairs) if term.only in (None, pair[1])]
        self.teacher_layers = [layer - 1 for layer, _ in pairs]
        self.student_layers = [layer - 1 for _, layer in pairs]
        self.order = ordered(np.arange(len(pairs)), term.order, matching.seed).copy()  # of a control
        maps, offsets = self._adapted()
        self.maps, self.offsets = nn.Parameter(maps), nn.Parameter(offsets)  # (P, d_T, d_S), (P, d_T)
        self.register_buffer("weights", self._of_pairs(torch.tensor(matching.weighting.weights)))
        self.register_buffer("sharing", torch.tensor([self.student_layers.count(m) for m in self.student_layers]))
        self.to(self.statistics.mean.device)
        self._record(0)

    def _adapted(self) -> tuple[torch.Tensor, torch.Tensor]:
        """What Adapt starts as, for the student as it is now."""
        student, teacher = self.matching.start()
        targets = self.statistics.standardise(teacher)[:, self.teacher_layers]  # (N, P, d_T)
        return ridge_maps(unit_rms(student), self.student_layers, targets)

    def begin_phase(self) -> None:
        self.maps.data, self.offsets.data = (values.to(self.maps.device) for values in self._adapted())

    def begin_step(self, step: int) -> None:
        """Every `update_interval` steps the weights change, where they are dynamic: here by the teacher's trace, or at
        the next batch by the student's Fisher."""
        if self.dynamic and step and step % self.matching.weighting.update_interval == 0:
            self.due, self.step = self.matching.recent_trace is None, step
            if self.matching.recent_trace:
                self.update(self.matching.recent_trace(step))

    def forward(self, student: Scored, signals: Mapping[str, torch.Tensor], batch: PackedBatch) -> torch.Tensor:
        """sum_l w_l * layer_loss_l for teacher states (N, L_T, d_T) and student states (N, L_S, d_S)."""
        assert student.states is not None
        if self.due:
            self.update(self._shared(student.sensitivity(batch).mean(0)))
            self.due = False
        states = unit_rms(student.states)[:, self.student_layers]  # (N, P, d_S)
        adapted = torch.einsum("nps,pts->npt", states, self.maps) + self.offsets  # (N, P, d_T)
        targets = self.statistics.standardise(signals["states"])[:, self.teacher_layers]
        return (self.weights * self.losses(targets, adapted)).sum()

    def update(self, importance: torch.Tensor) -> None:
        """Eq. 9: w <- (1 - eta) w + eta w_current, renormalised. w_current is the importance of every teacher layer
        (L_T,) times Eq. 6's depth factor; a control takes it in its own order, as it took the first weights."""
        biased = importance.to(self.weights) * self.weights.new_tensor(self.matching.weighting.depth_bias)
        self.weights.lerp_(self._of_pairs(biased), self.matching.weighting.update_rate)
        self.weights /= self.weights.sum()
        self._record(self.step)

    def _of_pairs(self, weights: torch.Tensor) -> torch.Tensor:
        """Of every teacher layer (L_T,) -> of the pairs (P,), in this term's order, with sum 1."""
        chosen = weights[self.teacher_layers]
        if chosen.sum() == 0:
            layers = ", ".join(str(layer + 1) for layer in self.teacher_layers)
            raise UserError(
                f"the teacher's layers that are matched ({layers}) have no weight in this method: take another "
                "distill.layer_map, a student of more layers, or another method"
            )
        return (chosen / chosen.sum())[self.order]

    def _shared(self, importance: torch.Tensor) -> torch.Tensor:
        """The importance of student layers (L_S,), shared equally by the teacher layers that are matched with each:
        (L_T,), zero where a layer is not matched."""
        shared = importance.new_zeros(self.statistics.mean.shape[0])
        shared[self.teacher_layers] = importance[self.student_layers] / self.sharing
        return shared

    def _record(self, step: int) -> None:
        for layer, weight in zip(self.teacher_layers, self.weights.tolist(), strict=True):
            self.trajectory.append({"step": step, "layer": layer + 1, "weight": weight})

    def get_extra_state(self) -> list[dict[str, float]]:
        return self.trajectory

    def set_extra_state(self, state: list[dict[str, float]]) -> None:
        self.trajectory = state
