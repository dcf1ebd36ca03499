import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from fisher_ld.config.params import Cluster
from fisher_ld.core.compute import Compute, setup
from fisher_ld.core.errors import UserError


@pytest.fixture
def torch_settings():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_setup_seeds_everything(torch_settings):
    def draw(seed):
        assert setup(Cluster(threads=1, precision="fp32", batch_users=1), seed) == Compute(
            torch.device("cpu"), bf16=False
        )
        return random.random(), np.random.random(), torch.rand(1).item()

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_setup_refuses_a_device_that_is_not_there(torch_settings):
    with pytest.raises(UserError, match="torch sees no GPU"):
        setup(Cluster(device="cuda"), 0)


@pytest.mark.parametrize("able", [True, False])
def test_bf16_only_where_the_hardware_computes_it(torch_settings, monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    assert setup(Cluster(precision="auto"), 0).bf16 is able
    assert setup(Cluster(precision="fp32"), 0).bf16 is False
    if able:
        assert setup(Cluster(precision="bf16"), 0).bf16 is True
    else:
        with pytest.raises(UserError, match=r"cluster\.precision: .* does not compute in bf16"):
            setup(Cluster(precision="bf16"), 0)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="mallopt is glibc's")
def test_freed_memory_is_kept():
    """Memory that is freed and taken again, eight blocks of 64 MB, costs page faults the first time alone."""
    code = """
import resource, sys
import numpy as np
from fisher_ld.core.compute import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
np.ones(2**23)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(8):
    np.ones(2**23)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

    def faults(mode):
        run = subprocess.run([sys.executable, "-c", code, mode], capture_output=True, text=True, check=True)
        return int(run.stdout)

    assert faults("kept") < faults("given back") / 10
