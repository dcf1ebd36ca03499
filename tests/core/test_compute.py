import os
import platform
import random
import subprocess
import sys

import numpy as np
import pytest
import torch

from fisher_ld.core import compute
from fisher_ld.core.compute import GIB, Compute, setup
from fisher_ld.core.errors import UserError
from tests.given import given


def cluster(**changes):
    return given({"cluster": changes}).cluster


@pytest.fixture
def torch_settings():
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    yield
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(deterministic)


def test_setup_seeds_everything(torch_settings):
    def draw(seed):
        compute = setup(cluster(threads=1, batch_users=1), "fp32", seed)
        assert compute == Compute(torch.device("cpu"), bf16=False)
        return random.random(), np.random.random(), torch.rand(1).item()

    assert draw(3) == draw(3)
    assert all(a != b for a, b in zip(draw(3), draw(4), strict=True))
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_setup_refuses_a_device_that_is_not_there(torch_settings):
    with pytest.raises(UserError, match="torch sees no GPU"):
        setup(cluster(device="cuda"), "auto", 0)


@pytest.mark.parametrize("able", [True, False])
def test_bf16_only_where_the_hardware_computes_it(torch_settings, monkeypatch, able):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": able})
    assert setup(cluster(), "auto", 0).bf16 is able
    assert setup(cluster(), "fp32", 0).bf16 is False
    if able:
        assert setup(cluster(), "bf16", 0).bf16 is True
    else:
        with pytest.raises(UserError, match="precision: this hardware does not compute in bf16"):
            setup(cluster(), "bf16", 0)


@pytest.mark.parametrize(
    ("threads", "variable", "expected"),
    [
        (None, "3", 3),
        (None, "3,2", 3),  # a number for each level of nesting
        (2, "3", 2),
        (None, "", len(os.sched_getaffinity(0))),
    ],
)
def test_threads_are_the_params_or_those_of_the_environment(torch_settings, monkeypatch, threads, variable, expected):
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    setup(cluster(threads=threads), "fp32", 0)
    assert torch.get_num_threads() == expected


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


def test_memory_that_a_container_or_a_job_leaves(tmp_path, monkeypatch):
    """The least of the machine, its own group and those above it."""
    for folder, most, used in (("", "max", 0), ("job", 8 * GIB, 3 * GIB), ("job/step", 7 * GIB, 1 * GIB)):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / "memory.max").write_text(f"{most}\n")
        (tmp_path / folder / "memory.current").write_text(f"{used}\n")
    (tmp_path / "job/memory.stat").write_text(f"anon 7\ninactive_file {GIB}\nactive_file 9\n")  # can be had back
    own = tmp_path / "own"
    own.write_text("0::/job/step\n")
    assert sorted(compute._of_control_groups(tmp_path, own)) == [6 * GIB, 6 * GIB]
    assert list(compute._of_control_groups(tmp_path, tmp_path / "none")) == []
    monkeypatch.setattr(compute, "_of_control_groups", lambda: [2 * GIB])
    assert Compute(torch.device("cpu"), bf16=False).free() == 2
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "1024")
    assert Compute(torch.device("cpu"), bf16=False).free() == 1
