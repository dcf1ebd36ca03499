"""Trains a student from teacher signals by the terms of a method; it knows none of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import step_plan
from fisher_ld.batches.prompts import Prompts
from fisher_ld.config.params import Distill
from fisher_ld.distillation.losses import l2
from fisher_ld.distillation.matching import Matching, Weighting
from fisher_ld.distillation.methods import Method
from fisher_ld.distillation.objective import Loss, TrainedTerm, objective
from fisher_ld.distillation.signals import TeacherSignals
from fisher_ld.models.scorer import Scorer
from fisher_ld.training.loop import Fit, Schedule, Training, fit

RECENT_EXAMPLES = 8  # of which the teacher's trace is taken for one update of Eq. 9
START_EXAMPLES = 2000  # from whose states Adapt starts, at most
TRAJECTORY = pl.Schema({"step": pl.Int64, "layer": pl.Int64, "weight": pl.Float64})


def distill(
    student: Scorer,
    teacher: TeacherSignals,
    method: Method,
    weighting: Weighting | None,
    lists: Lists,
    prompts: Prompts,
    params: Distill,
    training: Training,
) -> tuple[Fit, pl.DataFrame]:
    """Trains `student` in place by the loss of `method` (Eq. 7) on the windows of `lists`: each step reads some whose
    labels are known, alike for every method, and where the method has a teacher some transfer windows, which only the
    teacher has answered. `weighting`: None for a method without a layer term. Returns the fit, and the layer weights
    at the start and whenever Eq. 9 changed them (`TRAJECTORY`)."""
    torch.manual_seed(training.seed)
    student.requires_grad_(True)
    plan = _plan(lists, prompts, params, bool(method.signals), training.seed)
    matching = None
    if method.layers:
        assert weighting is not None
        matching = _matching(student, teacher, weighting, plan, lists, prompts, training.seed)
    losses: dict[str, Loss] = {term.name: term.build(params, matching) for term in method.terms}
    weights = {term.name: float(getattr(params, term.weight)) for term in method.terms}
    if params.explicit_l2:
        losses["l2"], weights["l2"] = lambda *given: l2(student.parameters()), params.l2
    trained = {name: loss for name, loss in losses.items() if isinstance(loss, TrainedTerm)}

    def loss(windows: list[np.ndarray], step: int) -> tuple[torch.Tensor, dict[str, float], int]:
        for part in trained.values():
            part.begin_step(step)
        batch = student.pack(lists, windows, prompts)
        scored = student(batch, with_states="states" in method.signals)
        total, parts = objective(losses, weights, scored, _signals(teacher, method, batch, scored.logits), batch)
        return total, parts, batch.tokens

    schedule = Schedule(
        params.learning_rate, 0.0 if params.explicit_l2 else params.l2, params.warmup, params.eval_every, None,
        params.checkpoint_every,
    )  # fmt: skip

    def state() -> dict[str, Any]:
        return {name: part.state_dict() for name, part in trained.items()}

    def load(saved: Mapping[str, Any]) -> None:
        for name, part in trained.items():
            part.load_state_dict(saved[name])

    module = nn.ModuleDict({"student": student, **trained})
    result = fit(module, plan, loss, schedule, training, state, load)
    student.requires_grad_(False)
    rows = [row for part in trained.values() for row in part.trajectory]
    return result, pl.DataFrame(rows, schema=TRAJECTORY)


def _plan(lists: Lists, prompts: Prompts, params: Distill, taught: bool, seed: int) -> list[list[np.ndarray]]:
    """The windows of every optimiser step."""
    windows = lists.windows()
    known = [window for window in windows if lists.positive[window[0]] >= 0]
    transfer = [window for window in windows if lists.positive[window[0]] < 0] if taught else []
    plan = step_plan(lists, known, prompts, params.batch_users, params.steps, seed)
    if not transfer:
        return plan
    added = step_plan(lists, transfer, prompts, params.transfer_users, params.steps, seed)
    return [[*labelled, *others] for labelled, others in zip(plan, added, strict=True)]


def _matching(
    student: Scorer,
    teacher: TeacherSignals,
    weighting: Weighting,
    plan: list[list[np.ndarray]],
    lists: Lists,
    prompts: Prompts,
    seed: int,
) -> Matching:
    def start() -> tuple[torch.Tensor, torch.Tensor]:
        """On the first examples that training reads."""
        own: list[torch.Tensor] = []
        targets: list[torch.Tensor] = []
        with student.inference():
            for windows in plan:
                batch = student.pack(lists, windows, prompts)
                states = student(batch, with_states=True).states
                own.append(states)
                targets.append(teacher.signals(batch.examples.cpu().numpy(), ["states"])["states"].to(states.device))
                if sum(map(len, own)) >= START_EXAMPLES:
                    break
        return torch.cat(own).clone(), torch.cat(targets)  # cloned: no tensor of inference mode

    def trace_before(step: int) -> torch.Tensor:
        """Of a seeded few examples read since the last update."""
        assert weighting.teacher_trace is not None
        numbers = np.concatenate([w for entry in plan[step - weighting.update_interval : step] for w in entry])
        examples = lists.examples(np.unique(numbers))
        chosen = np.random.default_rng((seed, step)).permutation(examples)[:RECENT_EXAMPLES]
        return weighting.teacher_trace(chosen)

    statistics = teacher.statistics().to(student.model.device)
    return Matching(weighting, statistics, start, trace_before if weighting.teacher_trace else None, seed)


def _signals(teacher: TeacherSignals, method: Method, batch: Any, like: torch.Tensor) -> dict[str, torch.Tensor]:
    if not method.signals:
        return {}
    found = teacher.signals(batch.examples.cpu().numpy(), sorted(method.signals))
    return {name: values.to(like.device) for name, values in found.items()}
