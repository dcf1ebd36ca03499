"""Layer matching: which states are compared, by which weights, and how these change in training (Eq. 8, 9)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from fisher_ld.batches.packing import PackedBatch
from fisher_ld.distillation.losses import layer_losses
from fisher_ld.distillation.objective import TrainedTerm
from fisher_ld.models.scorer import Scored


@dataclass(frozen=True)
class Matching:
    """What a layer term is built from."""

    pairs: list[tuple[int, int]]  # teacher layer, student layer, both from 1
    weights: list[float]  # w_l of every teacher layer, (L_T,)
    teacher_width: int
    student_width: int
    device: torch.device
    update_rate: float  # eta of Eq. 9
    update_interval: int  # optimiser steps
    teacher_trace: Callable[[int], torch.Tensor] | None  # step -> tr(F_l) (L_T,) on examples read of late; None: Eq. 9
    # follows the gradients of the layer losses


class LayerMatching(TrainedTerm):
    """The layer term of Eq. 7: one linear map d_S -> d_T for each pair (Adapt), and the weights of the pairs."""

    weights: torch.Tensor  # (P,)
    recent: torch.Tensor  # (P,) what Eq. 9 calls recent gradients, added up since the last update

    def __init__(self, matching: Matching, dynamic: bool):
        super().__init__()
        self.matching, self.dynamic = matching, dynamic
        self.teacher_layers = [layer - 1 for layer, _ in matching.pairs]
        self.student_layers = [layer - 1 for _, layer in matching.pairs]
        maps = torch.empty(len(matching.pairs), matching.teacher_width, matching.student_width)
        square = matching.teacher_width == matching.student_width
        for one in maps:
            nn.init.eye_(one) if square else nn.init.orthogonal_(one)
        self.maps = nn.Parameter(maps)  # (P, d_T, d_S)
        matched = torch.tensor([matching.weights[layer] for layer in self.teacher_layers])
        self.register_buffer("weights", matched / matched.sum())
        self.register_buffer("recent", torch.zeros(len(matching.pairs)))
        self.to(matching.device)
        self._record(0)

    def begin_step(self, step: int) -> None:
        """Changes the weights every `update_interval` steps, where they are dynamic."""
        matching = self.matching
        if self.dynamic and step and step % matching.update_interval == 0:
            self.update(matching.teacher_trace(step) if matching.teacher_trace else None)
            self._record(step)

    def forward(self, student: Scored, signals: Mapping[str, torch.Tensor], batch: PackedBatch) -> torch.Tensor:
        """sum_l w_l * layer_loss_l for teacher states (N, L_T, d_T) and student states (N, L_S, d_S)."""
        assert student.states is not None
        adapted = torch.einsum("nps,pts->npt", student.states[:, self.student_layers], self.maps)  # (N, P, d_T)
        losses = layer_losses(signals["states"][:, self.teacher_layers], adapted)  # (P,)
        if self.dynamic and self.matching.teacher_trace is None:
            (gradient,) = torch.autograd.grad(losses.sum(), adapted, retain_graph=True)
            self.recent += gradient.square().sum((0, 2)).detach()
        return (self.weights * losses).sum()

    def update(self, teacher_trace: torch.Tensor | None = None) -> None:
        """Eq. 9: w <- (1 - eta) w + eta w_current, renormalised. w_current is the teacher's trace (L_T,) on recent
        examples where given, else the squared gradients of the layer losses at the adapted states."""
        current = self.recent if teacher_trace is None else teacher_trace.to(self.weights)[self.teacher_layers]
        self.weights.lerp_(current / current.sum(), self.matching.update_rate)
        self.weights /= self.weights.sum()
        self.recent.zero_()

    def _record(self, step: int) -> None:
        for layer, weight in zip(self.teacher_layers, self.weights.tolist(), strict=True):
            self.trajectory.append({"step": step, "layer": layer + 1, "weight": weight})

    def get_extra_state(self) -> list[dict[str, float]]:
        return self.trajectory

    def set_extra_state(self, state: list[dict[str, float]]) -> None:
        self.trajectory = state
