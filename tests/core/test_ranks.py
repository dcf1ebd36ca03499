import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from fisher_ld.core import ranks
from tests.core.work import work

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node"]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What one process does."""
    return work(tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module", params=[2, 3])
def shared(tmp_path_factory, request):
    """What each of several does. Three cannot divide a matrix evenly."""
    folder, given = tmp_path_factory.mktemp("shared"), {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    command = [*TORCHRUN, str(request.param), "-m", "tests.core.work", str(folder)]
    done = subprocess.run(command, env={**os.environ, **given}, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr.partition("failed (exitcode")[0]  # what the ranks said, without the table
    return [np.load(folder / f"{rank}.npz") for rank in range(request.param)]


WAYS = ["full", "lora", "full in parts", "lora in parts", "full again", "lora again in parts"]
WAYS += ["full in parts in pieces", "lora again in parts in pieces"]
ADAPTED = [*WAYS, *(f"{way} curve" for way in WAYS)]
DISTILLED = ["fisher-ld", "list-kl", "ranking", "minilm", "tinybert", "fitnets", "fisher-ld weights", "fitnets weights"]
READ = [f"{what} {how}" for what in ("logits", "states", "scores", "fisher") for how in ("whole", "in parts")]


@pytest.mark.parametrize("name", [*ADAPTED, "resumed in parts", *DISTILLED, *READ, "scores pretrained"])
def test_several_ranks_do_what_one_does(alone, shared, name):
    """Weights after twenty steps, which are the same on all; what the cache holds; scores."""
    first, *others = (found[name] for found in shared)
    assert first.shape == alone[name].shape and all(np.array_equal(first, other) for other in others)
    near = 1e-6 if name in READ else 1e-5 if len(shared) == 2 else 2e-5
    np.testing.assert_allclose(first, alone[name], rtol=max(near, 1e-6), atol=near)


def test_in_bf16_a_divided_teacher_is_near(alone, shared):
    """Its norms are rounded too. Its matrices rest in bf16, as those of one process do."""
    first, *others = (found["lora in parts in bf16"] for found in shared)
    assert all(np.array_equal(first, other) for other in others)
    assert (torch.tensor(first).bfloat16().float().numpy() == first).mean() > 0.9
    assert np.abs(first - alone["lora in parts in bf16"]).max() < 2e-3
    curves = [found["lora in parts in bf16 curve"] for found in (shared[0], alone)]
    np.testing.assert_allclose(*curves, atol=2e-3)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_activations_that_are_computed_again_change_nothing(alone, way):
    again = {"full": "full again", "lora": "lora again in parts"}[way]
    np.testing.assert_allclose(alone[again], alone[way], rtol=1e-5, atol=1e-5)


def test_alone_nothing_is_shared():
    assert ranks.leader() and ranks.share([1, 2]) == [(1, True), (2, True)]
    assert ranks.gather(5) == ranks.to_leader(5) == ranks.together(lambda: 5) == [5]
    with pytest.raises(KeyError):
        ranks.together(lambda: {}["missing"])
