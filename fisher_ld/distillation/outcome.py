"""Did anything happen? What a training did to a student, by which a comparison is a test or is none."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from fisher_ld.training.loop import Fit

LAST = 50  # steps, over which the layer loss is taken


def outcome(start: Mapping[str, torch.Tensor], end: Mapping[str, torch.Tensor], fit: Fit) -> dict[str, Any]:
    """`start`, `end`: the student's weights by name. moved: the distance between them over the norm of the start.
    layer_loss: the weighted layer loss of the last steps before the best validation, as a share of the constant
    predictor's (1: the student knows the mean and no more); None without a layer term. validation_start: NDCG@10 at the
    start. gain_last: NDCG@10 of the last validation minus that of the one before."""
    distance = sum(float((end[name].double() - start[name].double()).square().sum()) for name in start)
    norm = sum(float(value.double().square().sum()) for value in start.values())
    losses = [row["layers"] for row in fit.curve if "layers" in row and row["step"] <= fit.best_step][-LAST:]
    validations = [row["validation_ndcg_10"] for row in fit.curve if "validation_ndcg_10" in row]
    return {
        "moved": (distance / norm) ** 0.5,
        "layer_loss": sum(losses) / len(losses) if losses else None,
        "validation_start": validations[0],
        "gain_last": validations[-1] - validations[-2] if len(validations) > 1 else 0.0,
    }
