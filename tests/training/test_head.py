import numpy as np
import pytest
import torch

from fisher_ld.batches.packing import pack
from fisher_ld.training.head import fit_head


def test_the_head_is_the_ridge_regression_of_the_labels(tiny):
    student = tiny.scorer()
    read = []
    student.model.score.register_forward_pre_hook(lambda module, given: read.append(given[0].detach()))
    windows = tiny.lists.windows()
    batch = pack(tiny.lists, windows, tiny.prompts, student.context())
    with torch.no_grad():
        before = student(batch).logits
    fit_head(student, tiny.lists, windows, tiny.prompts)
    with torch.no_grad():
        after = student(batch).logits

    x, y = read[0].double().numpy(), batch.labels.numpy()  # (12, 32), (12,): one of three liked
    response = np.log(0.5) + (y - 1 / 3) / (2 / 9)
    strength = 0.01 * np.square(x).sum(0).mean()
    expected = x @ np.linalg.solve(x.T @ x + strength * np.eye(32), x.T @ response)
    assert after.numpy() == pytest.approx(expected, abs=1e-4)
    loss = torch.nn.functional.binary_cross_entropy_with_logits
    assert loss(after, batch.labels) < loss(before, batch.labels)
