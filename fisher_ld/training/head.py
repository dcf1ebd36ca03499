"""Where a head starts that reads states it was not trained on: the linear answer that they already give."""

from __future__ import annotations

import math

import numpy as np
import torch

from fisher_ld.batches.lists import Lists
from fisher_ld.batches.prompts import Prompts
from fisher_ld.core.progress import progress
from fisher_ld.models.scorer import Scorer

WINDOWS = 200
RIDGE = 0.01  # of the mean square of a feature


@torch.no_grad()
def fit_head(scorer: Scorer, lists: Lists, windows: list[np.ndarray], prompts: Prompts) -> None:
    """Sets the two rows of the head to the ridge regression of the labels on what the head reads, over the first
    `WINDOWS` of `windows`: one Newton step of logistic regression from the constant answer. A head that comes from
    another depth reads states that it was not trained on, and training then spends its first hundreds of steps on
    that alone."""
    size = scorer.batch_users
    groups = [windows[i : i + size] for i in range(0, min(len(windows), WINDOWS), size)]
    inputs: list[torch.Tensor] = []
    labels: list[torch.Tensor] = []
    hook = scorer.model.score.register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    with hook, scorer.inference():
        for group in progress(groups, "fitting the head", unit="batch"):
            batch = scorer.pack(lists, group, prompts)
            scorer(batch)
            labels.append(batch.labels)
    x, y = torch.cat(inputs).double(), torch.cat(labels).double()  # (N, d), (N,)
    p = float(y.mean())
    response = math.log(p / (1 - p)) + (y - p) / (p * (1 - p))  # (N,)
    moments = x.T @ x  # (d, d)
    moments.diagonal().add_(RIDGE * moments.diagonal().mean())
    direction = torch.linalg.solve(moments, x.T @ response)  # (d,)
    scorer.model.score.weight.copy_(torch.stack([-direction, direction]) / 2)


def shuffled_windows(lists: Lists, seed: int) -> list[np.ndarray]:
    """All windows in a seeded order, so that the first `WINDOWS` are a sample of them."""
    windows = lists.windows()
    return [windows[i] for i in np.random.default_rng(seed).permutation(len(windows))]
