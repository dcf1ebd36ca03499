"""The one training loop of teacher and students: AdamW, warm-up and cosine, validation, checkpoint and resume."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import torch
from torch import nn

from fisher_ld.core import ranks
from fisher_ld.core.checkpoint import Checkpoint
from fisher_ld.core.errors import UserError
from fisher_ld.core.progress import progress
from fisher_ld.models.sharded import divided_as

CLIP = 1.0  # gradient norm


@dataclass(frozen=True)
class Schedule:
    learning_rate: float
    weight_decay: float
    warmup: float  # share of all steps
    eval_every: int  # optimiser steps
    patience: int | None  # validations without a better score; None: never stop early
    checkpoint_every: int
    begins: Sequence[int] = (0,)  # the steps with which a cycle of the rate begins

    def rate(self, step: int, steps: int) -> float:
        """Linear warm-up, then cosine to zero, in each cycle."""
        cycle = bisect_right(self.begins, step)
        begin, end = self.begins[cycle - 1], (*self.begins, steps)[cycle]
        step, steps = step - begin, end - begin
        warm = max(1, round(self.warmup * steps))
        if step < warm:
            return self.learning_rate * (step + 1) / warm
        return self.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


@dataclass(frozen=True)
class Training:
    """What goes with one training: its seed, where it stands and what it tells."""

    label: str  # for progress and errors
    seed: int
    validate: Callable[[], float]  # NDCG@10 of the weights as they are
    checkpoint: Checkpoint
    log: Callable[[dict[str, float], int], None]  # values and the optimiser step


@dataclass(frozen=True)
class Fit:
    best_score: float  # of the weights that are left
    best_step: int
    steps: int
    curve: list[dict[str, float]]  # one entry an optimiser step, and one a validation, the first of them at the start

    def table(self) -> pl.DataFrame:
        """The curve, one row a step; null where nothing was measured there."""
        rows: dict[float, dict[str, float]] = {}
        for row in self.curve:
            rows.setdefault(row["step"], {}).update(row)
        return pl.DataFrame(list(rows.values()), infer_schema_length=None)

    def summary(self) -> dict[str, float]:
        return {"steps": self.steps, "best_step": self.best_step, "validation_ndcg_10": self.best_score}


def fit(
    module: nn.Module,
    plan: Sequence[Any],
    loss: Callable[[Any, int], tuple[torch.Tensor, dict[str, float], int]],
    schedule: Schedule,
    training: Training,
    extra_state: Callable[[], dict] = dict,
    load_extra: Callable[[dict], None] = lambda state: None,
) -> Fit:
    """Trains the parameters of `module` that require a gradient, one optimiser step for each entry of `plan`, and
    leaves it with the weights of its best validation after the start, of those in the last cycle where there are
    several: what earlier ones leave is unfinished. Each cycle begins with an optimiser of its own.

    `loss(entry, step)` gives the loss, its parts for the log, and the tokens it read. The order of the data is
    `plan` alone, so that a run resumed from a checkpoint goes on exactly where it was. Raises UserError on a loss
    or gradient that is not finite.
    """
    trained = {name: p for name, p in module.named_parameters() if p.requires_grad}
    kinds = [[p for p in trained.values() if ranks.is_divided(p) == shards] for shards in (False, True)]
    groups = [
        {"params": [p for p in part if (p.ndim > 1) == decayed], "weight_decay": decayed * schedule.weight_decay}
        for decayed in (True, False)
        for part in kinds
    ]
    optimizer = torch.optim.AdamW([g for g in groups if g["params"]], lr=schedule.learning_rate, fused=True)
    steps, step, curve = len(plan), 0, []
    best_score, best_step, best = 0.0, 0, {}

    def snapshot() -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in trained.items()}

    def stale() -> int:
        return sum("validation_ndcg_10" in row and row["step"] > best_step for row in curve)

    def record(step: int, **values: float) -> None:
        curve.append({"step": step, **values})
        training.log(values, step)

    def judge() -> None:
        nonlocal best_score, best_step, best
        module.eval()
        score = training.validate()
        record(step, validation_ndcg_10=score)
        if best_step <= schedule.begins[-1] or score > best_score:  # the start counts where it is all
            best_score, best_step, best = score, step, snapshot()

    def restore(weights: dict[str, torch.Tensor]) -> None:
        with torch.no_grad():
            for name, p in trained.items():
                p.copy_(divided_as(weights[name], p))

    if resumed := training.checkpoint.load():
        step, saved = resumed
        restore(saved["weights"])
        for name, p in trained.items():
            if name in saved["optimizer"]:  # else it had no gradient yet
                optimizer.state[p] = {key: resumed_of(v, p) for key, v in saved["optimizer"][name].items()}
        load_extra(saved["extra"])
        best = {name: resumed_of(value, trained[name]) for name, value in saved["best"].items()}
        best_score, best_step = saved["best_score"], saved["best_step"]
        for row in saved["curve"]:
            record(**row)
    else:
        judge()

    with progress(steps, training.label, unit="step", done=step) as bar:
        while step < steps and stale() < (schedule.patience or steps):
            module.train()
            began = time.perf_counter()
            if step in schedule.begins[1:]:
                optimizer.state.clear()
            rate = schedule.rate(step, steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            total, parts, tokens = loss(plan[step], step)
            total.backward()
            ranks.average_gradients(list(trained.values()))
            norm = _clip(kinds)
            if not (torch.isfinite(total) and torch.isfinite(norm)):
                raise UserError(
                    f"{training.label}: the loss is {total.item()} and its gradient norm {norm.item()} at step {step}, "
                    f"expected finite numbers. Lower the learning rate (now {schedule.learning_rate}) or look at the "
                    f"parts: {parts}"
                )
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            step += 1
            bar.advance(1)
            seconds = time.perf_counter() - began
            rates = {"learning_rate": rate, "gradient_norm": norm.item(), "tokens_per_second": tokens / seconds}
            record(step, loss=total.item(), **parts, **rates)
            if step % schedule.eval_every == 0 or step == steps:
                judge()
            if step % schedule.checkpoint_every == 0 or step == steps:
                training.checkpoint.save(
                    step,
                    {
                        "weights": snapshot(),
                        "optimizer": {name: optimizer.state[p] for name, p in trained.items() if p in optimizer.state},
                        "extra": extra_state(),
                        "curve": curve,
                        "best": best,
                        "best_score": best_score,
                        "best_step": best_step,
                    },
                )
    if best:
        restore(best)
    module.eval()
    return Fit(best_score, best_step, step, curve)


def resumed_of(value: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
    """What a checkpoint has for a parameter, where the parameter is and divided as it is. A copy, for the file that it
    was read from is removed by the next checkpoint."""
    return divided_as(value.to(p.device, copy=True), p)


def _clip(kinds: Sequence[Sequence[nn.Parameter]]) -> torch.Tensor:
    """Scales all gradients so that their common norm is at most CLIP; the norm before. `kinds`: parameters that are
    whole, and those that are divided among ranks."""
    present = [[p for p in part if p.grad is not None] for part in kinds]
    norms = [ranks.whole(nn.utils.get_total_norm([p.grad for p in part])) for part in present if part]  # type: ignore
    norm = norms[0] if len(norms) == 1 else torch.stack(norms).norm()
    for part in present:
        nn.utils.clip_grads_with_norm_(part, CLIP, norm)
    return norm
