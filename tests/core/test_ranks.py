import os
import subprocess
import sys

import numpy as np
import pytest

from fisher_ld.core import ranks
from tests.core.work import work

TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What one process does, and each of two."""
    alone, shared = tmp_path_factory.mktemp("alone"), tmp_path_factory.mktemp("shared")
    given = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*TORCHRUN, "-m", "tests.core.work", str(shared)], env=given, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return work(alone), np.load(shared / "0.npz"), np.load(shared / "1.npz")


WAYS = ["full", "lora", "full in parts", "lora in parts", "full again", "lora again in parts"]
ADAPTED = [*WAYS, *(f"{way} curve" for way in WAYS)]
DISTILLED = ["fisher-ld", "fisher-ld weights", "list-kl", "ranking", "minilm", "fitnets", "fitnets weights"]
READ = [f"{what} {how}" for what in ("logits", "states", "scores", "fisher") for how in ("whole", "in parts")]


@pytest.mark.parametrize("name", [*ADAPTED, "resumed in parts", *DISTILLED, *READ, "scores pretrained"])
def test_two_ranks_do_what_one_does(found, name):
    """Weights after twenty steps, which are the same on both; what the cache holds; scores."""
    one, first, second = found
    assert first[name].shape == one[name].shape and np.array_equal(first[name], second[name])
    np.testing.assert_allclose(first[name], one[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("way", ["full", "lora"])
def test_activations_that_are_computed_again_change_nothing(found, way):
    again = {"full": "full again", "lora": "lora again in parts"}[way]
    for one in found:
        np.testing.assert_allclose(one[again], one[way], rtol=1e-5, atol=1e-5)


def test_alone_nothing_is_shared():
    assert ranks.leader() and ranks.share([1, 2]) == [(1, True), (2, True)]
    assert ranks.gather(5) == ranks.to_leader(5) == ranks.together(lambda: 5) == [5]
    with pytest.raises(KeyError):
        ranks.together(lambda: {}["missing"])
