"""Trains a student from teacher signals: Eq. 7 with fixed or dynamic (Eq. 9) layer weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import nn

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import step_plan
from fisher_ld.batches.prompts import Prompts
from fisher_ld.config.params import Distill, Fisher
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.distillation.layer_map import layer_map
from fisher_ld.distillation.losses import l2, layer_losses, output_loss
from fisher_ld.distillation.methods import Method
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.adapt import ranking_loss
from fisher_ld.training.loop import Fit, Schedule, fit

RECENT_EXAMPLES = 8  # of which the teacher's trace is taken for one update of Eq. 9


class TeacherSignals(Protocol):
    """Where the teacher's knowledge comes from: the cache, or the teacher itself."""

    layers: int
    width: int

    def signals(self, examples: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """z (N,) and the hidden states at the decision token, up to their scale (N, L_T, d_T)."""
        ...


class LayerMatcher(nn.Module):
    """The layer term of Eq. 7: one linear map d_S -> d_T for each pair, and the weights of the pairs."""

    weights: torch.Tensor  # (P,)
    recent: torch.Tensor  # (P,)

    def __init__(self, pairs: list[tuple[int, int]], weights: list[float], student_width: int, teacher_width: int):
        super().__init__()
        self.teacher_layers = [layer - 1 for layer, _ in pairs]
        self.student_layers = [layer - 1 for _, layer in pairs]
        maps = torch.empty(len(pairs), teacher_width, student_width)
        for one in maps:
            nn.init.eye_(one) if teacher_width == student_width else nn.init.orthogonal_(one)
        self.maps = nn.Parameter(maps)  # (P, d_T, d_S)
        matched = torch.tensor([weights[layer] for layer in self.teacher_layers])
        self.register_buffer("weights", matched / matched.sum())  # (P,)
        self.register_buffer("recent", torch.zeros(len(pairs)))

    def forward(self, teacher: torch.Tensor, student: torch.Tensor, dynamic: bool) -> torch.Tensor:
        """sum_l w_l * layer_loss_l for states (N, L_T, d_T) and (N, L_S, d_S); where `dynamic`, also adds up what
        Eq. 9 calls recent gradients: the squared norm of each layer loss's gradient at the adapted state."""
        adapted = torch.einsum("nps,pts->npt", student[:, self.student_layers], self.maps)  # (N, P, d_T)
        losses = layer_losses(teacher[:, self.teacher_layers], adapted)  # (P,)
        if dynamic:
            (gradient,) = torch.autograd.grad(losses.sum(), adapted, retain_graph=True)
            self.recent += gradient.square().sum((0, 2)).detach()
        return (self.weights * losses).sum()

    def update(self, rate: float, teacher_trace: torch.Tensor | None = None) -> None:
        """Eq. 9: w <- (1 - eta) w + eta w_current, renormalised. w_current is the teacher's trace (L_T,) on recent
        examples where given, else the recent gradients."""
        current = self.recent if teacher_trace is None else teacher_trace.to(self.weights)[self.teacher_layers]
        self.weights.lerp_(current / current.sum(), rate)
        self.weights /= self.weights.sum()
        self.recent.zero_()


def distill(
    student: Scorer,
    teacher: TeacherSignals,
    method: Method,
    weights: list[float],
    lists: Lists,
    prompts: Prompts,
    params: Distill,
    fisher: Fisher,
    validate: Callable[[], float],
    checkpoint: Checkpoint,
    log: Callable[[dict[str, float], int], None],
    seed: int,
    label: str,
    teacher_trace: Callable[[np.ndarray], torch.Tensor] | None = None,
    mass: list[float] | None = None,
) -> tuple[Fit, list[dict[str, float]]]:
    """Trains `student` in place. `weights`: w_l of every teacher layer (none for the method without a layer loss).
    `teacher_trace`: tr(F_l) (L_T,) on some examples, for Eq. 9 from the teacher. `mass`: each layer's share of the
    Fisher trace (L_T,), by which `layer_map: fisher` chooses, whatever the method's weights. Returns the fit, and the
    layer weights at the start and whenever Eq. 9 changed them (step, layer, weight)."""
    torch.manual_seed(seed)
    student.requires_grad_(True)
    module = nn.ModuleDict({"student": student})
    matcher: LayerMatcher | None = None
    trajectory: list[dict[str, float]] = []

    def keep_weights(matcher: LayerMatcher, step: int) -> None:
        for layer, weight in zip(matcher.teacher_layers, matcher.weights.tolist(), strict=True):
            trajectory.append({"step": step, "layer": layer + 1, "weight": weight})

    if method.weighting != "none":
        pairs = layer_map(params.layer_map, teacher.layers, len(student.layers), mass)
        width = student.model.config.hidden_size
        matcher = LayerMatcher(pairs, weights, width, teacher.width).to(student.model.device)
        module["matcher"] = matcher
        keep_weights(matcher, 0)

    plan = step_plan(lists, prompts, params.batch_users, 0 if method.truncated else params.steps, seed)

    def recent_examples(step: int) -> np.ndarray:
        """A seeded few of those read since the last update."""
        numbers = np.concatenate([window for entry in plan[step - fisher.update_interval : step] for window in entry])
        examples = lists.examples(np.unique(numbers))
        return np.random.default_rng((seed, step)).permutation(examples)[:RECENT_EXAMPLES]

    def loss(windows: list[np.ndarray], step: int):
        batch = student.pack(lists, windows, prompts)
        z, states = student(batch, with_hidden_states=matcher is not None)
        labels, parts = ranking_loss(z, batch.labels, sum(map(len, windows)), params.list_weight)
        total = params.alpha * labels
        if params.explicit_l2:
            total = total + params.l2 * l2(student.parameters())
        if not method.output and matcher is None:
            return total, parts, batch.tokens
        teacher_z, teacher_states = (s.to(z.device) for s in teacher.signals(batch.examples.cpu().numpy()))
        if method.output:
            output = output_loss(teacher_z, z, params.temperature)
            total, parts["output"] = total + params.output_weight * output, output.item()
        if matcher is not None:
            if method.dynamic and step and step % fisher.update_interval == 0:
                matcher.update(fisher.update_rate, teacher_trace and teacher_trace(recent_examples(step)))
                keep_weights(matcher, step)
            matched = matcher(teacher_states, states, method.dynamic and teacher_trace is None)
            total, parts["layers"] = total + params.layer_weight * matched, matched.item()
        return total, parts, batch.tokens

    schedule = Schedule(
        learning_rate=params.learning_rate,
        weight_decay=0.0 if params.explicit_l2 else params.l2,
        warmup=params.warmup,
        eval_every=params.eval_every,
        patience=None,
        checkpoint_every=params.checkpoint_every,
    )

    def extra() -> dict:
        return {"buffers": dict(matcher.named_buffers()) if matcher is not None else {}, "trajectory": trajectory}

    def load_extra(saved: dict) -> None:
        trajectory[:] = saved["trajectory"]
        for name, buffer in extra()["buffers"].items():
            buffer.copy_(saved["buffers"][name])

    result = fit(module, plan, loss, validate, schedule, checkpoint, log, label, extra, load_extra)
    student.requires_grad_(False)
    return result, trajectory
