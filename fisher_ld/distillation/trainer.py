"""Trains a student from teacher signals by the terms of a method; it knows none of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import nn

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.packing import PackedBatch, step_plan
from fisher_ld.batches.prompts import Prompts
from fisher_ld.config.params import Distill
from fisher_ld.core.errors import UserError
from fisher_ld.distillation.losses import l2
from fisher_ld.distillation.matching import Matching, Weighting
from fisher_ld.distillation.methods import Method, Phase
from fisher_ld.distillation.objective import Loss, TrainedTerm, objective
from fisher_ld.distillation.signals import StateStatistics, TeacherSignals, asked
from fisher_ld.models.scorer import Scorer
from fisher_ld.models.together import score_together
from fisher_ld.training.loop import Fit, Schedule, Training, fit

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
    pieces: int = 1,
) -> tuple[Fit, pl.DataFrame]:
    """Trains `student` in place by the loss of `method` (Eq. 7) on the windows of `lists`: each step reads some whose
    labels are known, alike for every method, and where the method has a teacher some transfer windows, which only the
    teacher has answered. `weighting`: None for a method that needs at most the teacher's logits. Returns the fit, and
    the layer weights at the start and whenever Eq. 9 changed them (`TRAJECTORY`). The phases of a method share the
    steps. `pieces`: of a step, computed one after the other, for less memory. Raises UserError for a method that learns
    from windows without labels where there are none."""
    torch.manual_seed(training.seed)
    student.requires_grad_(True)
    if any(term.unlabelled for term in method.terms) and (lists.positive >= 0).all():
        raise UserError(
            f"{method.label} learns from windows without labels, of which there are none: raise data.transfer_windows, "
            "and leave some by data.labelled_windows"
        )
    plan = _plan(lists, prompts, params, bool(method.signals), training.seed)
    matching = None
    if method.signals - {"logits"}:
        assert weighting is not None
        statistics = teacher.statistics().to(student.model.device) if "states" in method.signals else None
        matching = _matching(student, teacher, weighting, statistics, plan, lists, prompts, training.seed)
    given = method.phases(len(student.layers))
    phases = [_Phase.of(phase, params, matching, student) for phase in given]
    ends = [round(share * len(plan)) for share in accumulate(phase.share for phase in given)]
    begins = (0, *ends[:-1])
    trained = nn.ModuleDict({f"{n}-{name}": part for n, phase in enumerate(phases) for name, part in phase.trained()})

    def loss(windows: list[np.ndarray], step: int) -> tuple[torch.Tensor, dict[str, float], int]:
        number = bisect_right(begins, step) - 1
        phase = phases[number]
        phase.hold(student)
        for _, part in phase.trained():
            if number and step == begins[number]:
                part.begin_phase()
            part.begin_step(step)
        scored, batch = score_together(
            student, lists, windows, prompts, lambda batch: asked(student, batch, phase.signals), pieces
        )
        total, parts = objective(
            phase.losses, phase.weights, scored, _signals(teacher, phase.signals, batch, scored.logits), batch
        )
        return total, parts, batch.tokens

    schedule = Schedule(
        params.learning_rate, 0.0 if params.explicit_l2 else params.l2, params.warmup, params.eval_every, None,
        params.checkpoint_every, begins=begins,
    )  # fmt: skip

    def state() -> dict[str, Any]:
        return {name: part.state_dict() for name, part in trained.items()}

    def load(saved: Mapping[str, Any]) -> None:
        for name, part in trained.items():
            part.load_state_dict(saved[name])

    module = nn.ModuleDict({"student": student, **trained})
    result = fit(module, plan, loss, schedule, training, state, load)
    student.requires_grad_(False)
    rows = [row for phase in phases for _, part in phase.trained() for row in part.trajectory]
    return result, pl.DataFrame(rows, schema=TRAJECTORY)


@dataclass(frozen=True)
class _Phase:
    losses: Mapping[str, Loss]
    weights: Mapping[str, float]  # of the losses
    signals: Collection[str]
    resting: Collection[nn.Parameter]

    @classmethod
    def of(cls, phase: Phase, params: Distill, matching: Matching | None, student: Scorer) -> _Phase:
        losses: dict[str, Loss] = {term.name: term.build(params, matching) for term in phase.terms}
        weights = {term.name: float(getattr(params, term.weight)) for term in phase.terms}
        if params.explicit_l2:
            losses["l2"], weights["l2"] = lambda *given: l2(student.parameters()), params.l2
        if not any(weights[term.name] for term in phase.terms):
            keys = sorted({f"distill.{term.weight}" for term in phase.terms})
            raise UserError(f"a phase of this method has no loss to train on: expected {' or '.join(keys)} above 0")
        first, last = phase.only or (1, len(student.layers))
        others = [*student.layers[: first - 1], *student.layers[last:]]
        if first > 1:  # of places too, where a model learns them
            others += [module for module in student.body.modules() if isinstance(module, nn.Embedding)]
        resting = [parameter for part in others for parameter in part.parameters()]
        return cls(losses, weights, sorted({signal for term in phase.terms for signal in term.signals}), resting)

    def trained(self) -> Iterator[tuple[str, TrainedTerm]]:
        yield from ((name, loss) for name, loss in self.losses.items() if isinstance(loss, TrainedTerm))

    def hold(self, student: Scorer) -> None:
        """What rests in this phase does not train; all else does."""
        student.requires_grad_(True)
        for parameter in self.resting:
            parameter.requires_grad_(False)


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
    statistics: StateStatistics | None,
    plan: list[list[np.ndarray]],
    lists: Lists,
    prompts: Prompts,
    seed: int,
) -> Matching:
    def start() -> tuple[torch.Tensor, torch.Tensor]:
        """On the first examples that training reads."""
        own: list[torch.Tensor] = []
        targets: list[torch.Tensor] = []
        training = student.training
        student.eval()  # without dropout, also where a later phase begins
        with student.inference():
            for windows in plan:
                batch = student.pack(lists, windows, prompts)
                states = student(batch, with_states=True).states
                own.append(states)
                targets.append(teacher.signals(batch.examples.cpu().numpy(), ["states"])["states"].to(states.device))
                if sum(map(len, own)) >= START_EXAMPLES:
                    break
        student.train(training)
        return torch.cat(own).clone(), torch.cat(targets)  # cloned: no tensor of inference mode

    def trace_before(step: int) -> torch.Tensor:
        """Of the examples read since the last update, in a seeded order."""
        assert weighting.teacher_trace is not None
        numbers = np.concatenate([w for entry in plan[step - weighting.update_interval : step] for w in entry])
        examples = lists.examples(np.unique(numbers))
        return weighting.teacher_trace(np.random.default_rng((seed, step)).permutation(examples))

    trace = trace_before if weighting.teacher_trace else None
    return Matching(weighting, len(student.layers), statistics, start, trace, seed)


def _signals(
    teacher: TeacherSignals, names: Collection[str], batch: PackedBatch, like: torch.Tensor
) -> dict[str, torch.Tensor]:
    if not names:
        return {}
    found = teacher.signals(batch.examples.cpu().numpy(), sorted(names))
    return {name: values.to(like.device) for name, values in found.items()}
